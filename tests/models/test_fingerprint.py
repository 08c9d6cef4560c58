"""Which model is it: what a fingerprint forgives, and what a digest does not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.models.fingerprint import Fingerprint, tokenizer_digest, upstream_digests
from tests.tiny import build_model, fast_tokenizer, tokenizer_of

LAYER = 2


def twin_of(view: EditableModel) -> EditableModel:
    return EditableModel.wrap(copy.deepcopy(view.model), view.tokenizer)


def cast(dtype: torch.dtype) -> Callable[[EditableModel], object]:
    return lambda view: view.model.to(dtype)


def edit(view: EditableModel) -> None:
    for layer in range(LAYER + 1):
        view.weight(layer).add_(torch.randn_like(view.weight(layer)))


def change_above(view: EditableModel) -> None:
    with torch.no_grad():
        for parameter in view.block(LAYER + 1).parameters():
            parameter.add_(1)


@pytest.mark.parametrize("change", [cast(torch.bfloat16), cast(torch.float16), edit, change_above])
def test_the_same_model_is_recognised(
    view: EditableModel, change: Callable[[EditableModel], object]
) -> None:
    twin = twin_of(view)
    change(twin)
    ours, theirs = Fingerprint.of(view, LAYER), Fingerprint.of(twin, LAYER)
    assert ours.covers(theirs)
    assert theirs.covers(ours)


def test_two_casts_of_one_model_are_the_same(view: EditableModel) -> None:
    twin = twin_of(view)
    ours = Fingerprint.of(EditableModel.wrap(view.model.half(), None), LAYER)
    assert ours.covers(Fingerprint.of(EditableModel.wrap(twin.model.bfloat16(), None), LAYER))


def test_another_model_is_not(view: EditableModel, family: str) -> None:
    other = EditableModel.wrap(build_model(family, len(view.tokenizer), seed=1), view.tokenizer)
    assert not Fingerprint.of(view, LAYER).covers(Fingerprint.of(other, LAYER))
    assert str(Fingerprint.of(view, LAYER)) != str(Fingerprint.of(other, LAYER))


def test_a_lower_layer_is_covered_by_a_higher_one(view: EditableModel) -> None:
    low, high = Fingerprint.of(view, 0), Fingerprint.of(view, LAYER)
    assert high.covers(low)
    assert not low.covers(high)


def upstream_digest(view: EditableModel, layer: int) -> str:
    return upstream_digests(view, [layer])[layer]


def test_digests_are_exact(view: EditableModel) -> None:
    """Any weight that has a part in the keys counts, and no other."""
    before = upstream_digest(view, LAYER)
    assert upstream_digest(twin_of(view), LAYER) == before
    above = {id(p) for p in view.block(LAYER + 1).parameters()}
    behind = {id(p) for p in view.model.get_submodule(view.layout.final_norm).parameters()}
    head = {id(p) for p in view.model.get_output_embeddings().parameters()}
    tied = {id(p) for p in view.model.get_input_embeddings().parameters()}
    counted = 0
    for parameter in view.model.parameters():
        value = parameter.detach().view(-1)[-1].item()
        parameter.detach().view(-1)[-1] += 1
        counts = id(parameter) not in above | behind | (head - tied)
        assert (upstream_digest(view, LAYER) != before) is counts
        counted += counts
        parameter.detach().view(-1)[-1] = value
    assert counted
    assert upstream_digest(view, LAYER - 1) != before
    together = upstream_digests(view, [LAYER, 0])
    assert together == {layer: upstream_digest(view, layer) for layer in (LAYER, 0)}
    view.model.half()
    assert upstream_digest(view, LAYER) != before


def test_tokenizers_are_told_apart() -> None:
    kinds = ("byte_level", "bos", "metaspace", "slow")
    assert len({tokenizer_digest(tokenizer_of(kind)) for kind in kinds}) == len(kinds)
    assert tokenizer_digest(fast_tokenizer()) == tokenizer_digest(fast_tokenizer())


@pytest.mark.parametrize("size", [1, 31, 2**24 + 3, 38_597_376])
def test_a_parameter_of_any_size_has_a_sample(size: int) -> None:
    """GPT-2's embeddings have 38,597,376 entries, a number that float32 rounds up."""
    assert len(Fingerprint.of_weights([torch.zeros(1).expand(size)]).values) == min(size, 32)
