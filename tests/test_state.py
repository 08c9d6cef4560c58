"""Whatever is called, and whether it fails or not: nothing but the asked-for edit is different."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.editing import targets as targets_module
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.experiments.causal_tracing import (
    TracedFact,
    fact_of,
    trace,
)
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.metrics.easyedit import edit_quality
from alphaedit_plugin.models.decoding import continue_greedily
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.generation import generate_contexts
from alphaedit_plugin.models.scoring import score
from alphaedit_plugin.nullspace import spectrum
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector, fit_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import CONTEXTS, REQUESTS, SEARCH, assert_same_weights, random_sequences, weights_of

LAYERS = (1, 2)
Call = Callable[[NullSpaceEditor], Any]


def _unusual(lm: EditableModel) -> None:
    """A model in the middle of someone's training."""
    lm.model.config.use_cache = False
    lm.model.generation_config.use_cache = False
    old = lm.model.gradient_checkpointing_enable  # the name until transformers 6
    getattr(lm.model, "activation_checkpointing_enable", old)()
    lm.model.enable_input_require_grads()
    lm.model.train()
    lm.block(0).eval()
    for number, parameter in enumerate(lm.model.parameters()):
        parameter.requires_grad_(number % 3 > 0)
    lm.parameter(3).grad = torch.ones_like(lm.parameter(3))
    lm.tokenizer.padding_side = lm.tokenizer.truncation_side = "left"


@pytest.fixture
def one(gpt2: EditableModel) -> EditableModel:
    """A model whose tokenizer is its own, too."""
    return EditableModel(gpt2.model, copy.deepcopy(gpt2.tokenizer), gpt2.layout)


def _editor(lm: EditableModel, moments: dict[int, SecondMoment], base: str) -> NullSpaceEditor:
    half = {n: Projector.fit(m, Cut(CutRule.rank, 64)) for n, m in moments.items()}
    method: BaseMethod = Rome() if base == "rome" else AlphaEdit(Memit(), half)
    return NullSpaceEditor(lm, Recipe(method, LAYERS, CONTEXTS, moments, targets=SEARCH), 2)


def _state(lm: EditableModel) -> dict[str, Any]:
    model, tokenizer = lm.model, lm.tokenizer
    modules = dict(model.named_modules())
    core = tokenizer.backend_tokenizer
    return {
        "torch random state": torch.random.get_rng_state().tolist(),
        "numpy random state": str(np.random.get_state()),
        "python random state": random.getstate(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "algorithms": (torch.are_deterministic_algorithms_enabled(), torch.backends.mkldnn.enabled),
        "training": {name: module.training for name, module in modules.items()},
        "checkpoints": {n: getattr(m, "gradient_checkpointing", 0) for n, m in modules.items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: p.grad is None for name, p in model.named_parameters()},
        "identities": {name: id(p) for name, p in model.named_parameters()},
        "hooks": {
            n: (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks))
            for n, m in modules.items()
        },
        "attributes": {name: sorted(module.__dict__) for name, module in modules.items()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "tokenizer": (
            tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token,
            tokenizer.model_max_length, len(tokenizer), str(core.padding), str(core.truncation),
        ),
    }  # fmt: skip


def _assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = [name for name, value in before.items() if after[name] != value]
    assert not changed


def _broken(editor: NullSpaceEditor) -> NullSpaceEditor:
    """The same editor, whose second layer cannot be solved."""

    class Broken(Memit):
        def delta(self, problem: Any) -> Any:
            if problem.layer == LAYERS[1]:
                raise NumericalError("broken on purpose")
            return super().delta(problem)

    recipe = editor.recipe
    moments = recipe.moments
    return NullSpaceEditor(
        editor.lm, Recipe(Broken(), LAYERS, CONTEXTS, moments, targets=SEARCH), 2
    )


PAIRS = [(request.filled, request.target_new) for request in REQUESTS]
ARGUMENTS: dict[str, Any] = {
    "prompts": [request.filled for request in REQUESTS[:2]],
    "target_new": [request.target_new for request in REQUESTS[:2]],
    "subject": [request.subject for request in REQUESTS[:2]],
}

CALLS: dict[str, Call] = {
    "edit": lambda e: e.edit(**ARGUMENTS, sequential_edit=False),
    "batch_edit": lambda e: e.batch_edit(**ARGUMENTS, sequential_edit=False),
    "apply and undo": lambda e: (e.apply(REQUESTS), e.finalize(), e.session.reset()),
    "score": lambda e: score(e.lm, PAIRS),
    "continue": lambda e: continue_greedily(e.lm, [REQUESTS[0].filled], [3]),
    "quality": lambda e: edit_quality(e.lm, REQUESTS),
    "contexts": lambda e: generate_contexts(e.lm, [(6, 5)], 0),
    "moments": lambda e: collect_second_moments(
        e.lm, random_sequences(len(e.lm.tokenizer), 4), LAYERS
    ),
    "fit": lambda e: fit_projectors(e.recipe.moments, Cut(CutRule.rank, 3)),
    "facts": lambda e: trace(e.lm, _facts(e.lm), samples=2),
}


def _facts(lm: EditableModel) -> list[TracedFact]:
    return [fact_of(lm, replace(r, ground_truth=r.target_new)) for r in REQUESTS]


def _never(*_: Any, **__: Any) -> Any:
    raise RuntimeError("out of memory, say")


FAILING: dict[str, Call] = {
    "a solve": lambda e: _broken(e).edit_requests(REQUESTS[:2], batch_size=2),
    "a search": lambda e: _failing_search(e),
    "moments": lambda e: collect_second_moments(e.lm, iter([[3, 4], [10**6]]), LAYERS),
    "a request": lambda e: e.edit("Nobody is here", "x", subject="somebody else"),
    "a batch": lambda e: e.batch_edit(["a {}"], ["b", "c"], subject=["d"]),
    "a forward pass": lambda e: _failing_forward(e),
}


def _failing_search(editor: NullSpaceEditor) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets_module.torch.optim.Adam, "step", _never)
        editor.apply(REQUESTS[:2])


def _failing_forward(editor: NullSpaceEditor) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(editor.lm.block(3)), "forward", _never)
        editor.edit(**ARGUMENTS)


@pytest.fixture(params=["as loaded", "in training"])
def found(request: pytest.FixtureRequest, one: EditableModel) -> EditableModel:
    if request.param == "in training":
        _unusual(one)
    random.seed(1)
    np.random.seed(1)
    return one


@pytest.mark.parametrize("call", [*CALLS, *(f"failing in {name}" for name in FAILING)])
def test_everything_is_left_as_found(
    found: EditableModel,
    call: str,
    gpt2_moments: dict[int, SecondMoment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spectrum, "LARGE", 8)  # small ones are decomposed like large ones
    monkeypatch.setattr(spectrum, "FEW", 0.5)
    editor = _editor(found, gpt2_moments, "memit")
    state, weights = _state(found), weights_of(found)
    if call in CALLS:
        CALLS[call](editor)
    else:
        with pytest.raises(Exception, match=r"."):
            FAILING[call.removeprefix("failing in ")](editor)
    _assert_same(state, _state(found))
    assert_same_weights(found, weights)


@pytest.mark.parametrize("base", ["rome", "memit"])
def test_the_edit_itself_does_not_depend_on_what_is_found(
    one: EditableModel, base: str, gpt2_moments: dict[int, SecondMoment]
) -> None:
    """Dropout, checkpoints, a caller without gradients or in another dtype: the same weights."""
    other = EditableModel(copy.deepcopy(one.model), copy.deepcopy(one.tokenizer), one.layout)
    _unusual(other)
    changes: list[list[Tensor]] = []
    for lm in (one, other):
        editor = _editor(lm, gpt2_moments, base)
        with torch.set_grad_enabled(lm is one):
            editor.apply(REQUESTS[:2])
        changes.append([lm.weight(layer).clone() for layer in LAYERS])
    for usual, unusual in zip(*changes, strict=True):
        assert torch.equal(usual, unusual)
