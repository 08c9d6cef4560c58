"""Half-precision weights, a caller's autocast, and weights that cannot be edited."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alphaedit_plugin.common.errors import ModelError, NumericalError
from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.editing.engine import finalize
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rect import Rect
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.activations import Part, Site
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import score
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from tests.architectures.zoo import build
from tests.tiny import (
    CONTEXTS,
    REQUESTS,
    assert_same_weights,
    edit,
    random_sequences,
    targets_of,
    weights_of,
)

HALVES = [torch.bfloat16, torch.float16]
SEARCH = TargetSettings(steps=6, lr=0.2, weight_decay=0.0)
QUICK = TargetSettings(steps=2, lr=0.2)
TINY = TargetSettings(steps=3, lr=0.1, weight_decay=0.0, kl_factor=0.0)
LAYERS = (0, 1)


def recipe_for(lm: EditableModel, base: BaseMethod, projected: bool) -> Recipe:
    moments = collect_second_moments(lm, random_sequences(len(lm.tokenizer)), LAYERS)
    half = Cut(CutRule.rank, lm.weight(0).shape[1] // 2)
    projectors = {layer: Projector.fit(moment, half) for layer, moment in moments.items()}
    method = AlphaEdit(base, projectors) if projected else base
    layers = LAYERS[-1:] if base.one_by_one else LAYERS
    return Recipe(method, layers, CONTEXTS, moments, targets=QUICK)


@pytest.fixture(params=["gpt2", "llama", "gemma2"])
def half(request: pytest.FixtureRequest, tokenizer: Any) -> Callable[[torch.dtype], EditableModel]:
    """A model of each kind, in a given dtype."""

    def make(dtype: torch.dtype) -> EditableModel:
        return EditableModel.wrap(build(request.param, len(tokenizer)).to(dtype), tokenizer)

    return make


@pytest.mark.parametrize("dtype", HALVES)
def test_the_search_in_half_precision_does_what_it_does_in_full(
    half: Callable[[torch.dtype], EditableModel], dtype: torch.dtype
) -> None:
    """A value by value comparison would ask too much of Adam, whose steps follow signs."""
    site = Site(1, Part.VALUE)
    found, expected = (
        targets_of(half(d), REQUESTS, CONTEXTS, site, FactToken.subject_last, SEARCH)
        for d in (dtype, torch.float32)
    )
    assert found.values.dtype is torch.float32
    assert torch.allclose(found.loss, expected.loss, rtol=0.1)
    start = replace(SEARCH, stop_loss=math.inf)
    before = targets_of(half(dtype), REQUESTS, CONTEXTS, site, FactToken.subject_last, start)
    assert found.loss.mean() < before.loss.mean()


def test_gradients_do_not_vanish_in_float16(tokenizer: Any) -> None:
    """A head of small weights makes small gradients."""
    moves = []
    for dtype in (torch.float32, torch.float16):
        model = build("llama", len(tokenizer))
        with torch.no_grad():
            model.lm_head.weight.mul_(1e-4)
        lm = EditableModel.wrap(model.to(dtype), tokenizer)
        start, end = (
            targets_of(
                lm, REQUESTS, CONTEXTS, Site(1, Part.BLOCK), FactToken.subject_last, settings
            ).values
            for settings in (replace(TINY, stop_loss=math.inf), TINY)
        )
        moves.append(end - start)
    assert torch.cosine_similarity(*moves, dim=0).min() > 0.99


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projected"])
def test_edits_are_kept_in_full_precision(
    half: Callable[[torch.dtype], EditableModel], dtype: torch.dtype, projected: bool
) -> None:
    lm = half(dtype)
    recipe = recipe_for(lm, Memit(moment_weight=10.0), projected)
    session, pristine = EditSession(lm, LAYERS), weights_of(lm)
    for request in REQUESTS[:2]:
        edit(session, recipe, [request])
    for layer in LAYERS:
        total = session.accumulated(layer)
        assert total.dtype is torch.float32
        exact = (session.pristine(layer).float() + total).to(dtype)
        assert torch.equal(exact, lm.weight(layer))
    session.undo(2)
    assert_same_weights(lm, pristine)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_loss_that_is_not_finite_names_the_request(
    half: Callable[[torch.dtype], EditableModel], dtype: torch.dtype
) -> None:
    lm = half(dtype)
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.mul_(torch.inf)
    with pytest.raises(NumericalError, match=r"'Boris Lund plays the' → 'tennis'.*dtype"):
        targets_of(lm, REQUESTS[1:2], CONTEXTS, Site(1, Part.BLOCK), FactToken.subject_last, SEARCH)


@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projected"])
@pytest.mark.parametrize("base", [Rome(), Memit(), Prune(), Rect()], ids=lambda b: type(b).__name__)
def test_autocast_changes_nothing(gpt2: EditableModel, base: BaseMethod, projected: bool) -> None:
    results: list[list[Tensor]] = []
    questions = [(request.filled, request.target_new) for request in REQUESTS]
    for around in (nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16)):
        lm = EditableModel(copy.deepcopy(gpt2.model), gpt2.tokenizer, gpt2.layout)
        with around:
            recipe = recipe_for(lm, base, projected)
            session = EditSession(lm, recipe.layers)
            for request in REQUESTS[:2]:
                edit(session, recipe, [request])
            finalize(session, recipe)
            session.undo()
            scores = [answer.log_prob for answer in score(lm, questions)]
        results.append([torch.tensor(scores), *(lm.weight(layer) for layer in LAYERS)])
    for plain, cast in zip(*results, strict=True):
        assert torch.equal(plain, cast)


def test_an_edit_shows_inside_the_callers_autocast(gpt2: EditableModel) -> None:
    """Which keeps low-precision copies of weights, as they were before the edit."""
    recipe = recipe_for(gpt2, Memit(moment_weight=10.0), projected=False)
    ids = torch.tensor([[5, 6, 7]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gpt2.model(ids)
        edit(EditSession(gpt2, LAYERS), recipe, REQUESTS[:1])
        inside = gpt2.model(ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(inside, gpt2.model(ids).logits)


class Eight(nn.Linear):
    """As bitsandbytes does: a linear layer whose weight is made of bytes."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.weight = nn.Parameter(torch.zeros(2, 4, dtype=torch.int8), requires_grad=False)


class Wrapped(Tensor):
    """As torchao and quanto do: a weight of a subclass that reports float32."""


def wrapped() -> nn.Module:
    linear = nn.Linear(4, 2)
    linear.weight = nn.Parameter(torch.zeros(2, 4).as_subclass(Wrapped))
    return linear


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Bilinear(2, 2, 2), r"is a Bilinear, and only nn\.Linear and Conv1D"),
        (Eight(), r"keeps its weight as torch\.int8"),
        (wrapped(), "keeps its weight as Wrapped"),
        (nn.Linear(4, 2).to(torch.float8_e4m3fn), r"keeps its weight as torch\.float8_e4m3fn"),
    ],
    ids=["module", "dtype", "class", "float8"],
)
def test_quantised_weights_are_refused(
    gpt2: EditableModel, module: nn.Module, message: str
) -> None:
    gpt2.model.transformer.h[1].mlp.c_proj = module
    with pytest.raises(ModelError, match=rf"h\.1\.mlp\.c_proj {message}.*bfloat16.*as the LoRA"):
        EditSession(gpt2, [0, 1])
    EditSession(gpt2, [0, 2])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"quant_method": "awq", "bits": 4}, "awq"),
        (SimpleNamespace(quant_method=SimpleNamespace(value="torchao")), "torchao"),
        (SimpleNamespace(load_in_8bit=True), "SimpleNamespace"),
    ],
)
def test_a_quantised_model_is_refused(gpt2: EditableModel, settings: Any, name: str) -> None:
    gpt2.model.config.quantization_config = settings
    with pytest.raises(ModelError, match=rf"is quantised \({name}\).*bfloat16.*as the LoRA"):
        EditableModel.wrap(gpt2.model, None)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
def test_real_quantisers_are_refused(tokenizer: Any) -> None:
    """torch's own dynamic quantisation replaces the modules."""
    model = build("llama", len(tokenizer))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ModelError, match=r"mlp\.down_proj is a Linear, and only"):
        EditSession(EditableModel.wrap(quantised, tokenizer), [1])
