"""Models without a usable cache run whole sentences, with the same result."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.models.activations import Part, Site
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.prefix_cache import CACHES, begin, can_resume
from alphaedit_plugin.models.tokens import Sentence
from tests.architectures.zoo import build
from tests.published import published_loop
from tests.tiny import CONTEXTS, REQUESTS, build_model, hook_count, relative, targets_of

SEARCH = TargetSettings(steps=3, lr=0.1)


@pytest.fixture
def fresh(tokenizer: Any) -> EditableModel:
    """A model that has not been tested."""
    return EditableModel.wrap(build_model("llama", len(tokenizer)), tokenizer)


def forget_positions(lm: EditableModel) -> None:
    """As if the model counted positions by the columns of its cache."""
    forward = type(lm.model).forward

    def counts(input_ids: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        past = next((kwargs[name] for name in CACHES if name in kwargs), None)
        start = 0 if past is None else past.get_seq_length() + 3
        kwargs["position_ids"] = torch.arange(input_ids.shape[1])[None] + start
        return forward(lm.model, input_ids, **kwargs)

    counts.__signature__ = inspect.signature(lm.model.forward)  # type: ignore[attr-defined]
    lm.model.forward = counts


def refuse_a_cache(lm: EditableModel) -> None:
    def refuse(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if any(kwargs.get(name) is not None for name in CACHES):
            raise TypeError("no cache here")

    lm.model.register_forward_pre_hook(refuse, with_kwargs=True)


def remember_a_block(lm: EditableModel) -> None:
    """The last block also adds what the first put out in this pass."""
    kept: list[Any] = []
    lm.block(0).mlp.register_forward_hook(lambda _, args, out: kept.append(out))
    lm.block(3).register_forward_hook(lambda _, args, out: out + kept.pop())


@pytest.mark.parametrize("break_it", [forget_positions, refuse_a_cache, remember_a_block])
def test_a_model_that_fails_the_test_runs_whole_sentences(
    fresh: EditableModel, break_it: Any
) -> None:
    assert can_resume(fresh)
    fresh.findings.clear()
    break_it(fresh)
    assert not can_resume(fresh)
    sentences = [Sentence((5, 6, 7, 8), 2)]
    tail = begin(fresh, sentences, 2)
    assert (tail.layer, tail.past, tail.below) == (0, None, None)
    site = Site(1, Part.BLOCK)
    found = targets_of(fresh, REQUESTS[:2], CONTEXTS, site, FactToken.subject_last, SEARCH)
    value, _ = published_loop(fresh, REQUESTS[1], site, SEARCH)
    assert relative(found.values[:, 1], value) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_the_test(tokenizer: Any, dtype: torch.dtype) -> None:
    for name in ("gpt2", "llama", "gemma2", "bloom"):
        lm = EditableModel.wrap(build(name, len(tokenizer)).to(dtype), tokenizer)
        assert can_resume(lm), name


def test_the_test_removes_its_hooks(fresh: EditableModel) -> None:
    fresh.model.train()
    can_resume(fresh)
    assert hook_count(fresh.model) == 0
    assert all(module.training for module in fresh.model.modules())
