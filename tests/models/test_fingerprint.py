"""Fingerprints survive edits and casts; digests do not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import Fingerprint, tokenizer_digest, upstream_digests
from tests.tiny import build_model, fast_tokenizer, tokenizer_of

LAYER = 2


def twin_of(lm: EditableModel) -> EditableModel:
    return EditableModel.wrap(copy.deepcopy(lm.model), lm.tokenizer)


def cast(dtype: torch.dtype) -> Callable[[EditableModel], object]:
    return lambda lm: lm.model.to(dtype)


def edit(lm: EditableModel) -> None:
    for layer in range(LAYER + 1):
        lm.weight(layer).add_(torch.randn_like(lm.weight(layer)))


def change_above(lm: EditableModel) -> None:
    with torch.no_grad():
        for parameter in lm.block(LAYER + 1).parameters():
            parameter.add_(1)


@pytest.mark.parametrize("change", [cast(torch.bfloat16), cast(torch.float16), edit, change_above])
def test_the_same_model_is_recognized(
    lm: EditableModel, change: Callable[[EditableModel], object]
) -> None:
    twin = twin_of(lm)
    change(twin)
    ours, theirs = Fingerprint.of(lm, LAYER), Fingerprint.of(twin, LAYER)
    assert ours.covers(theirs)
    assert theirs.covers(ours)


def test_two_casts_of_one_model_are_the_same(lm: EditableModel) -> None:
    twin = twin_of(lm)
    ours = Fingerprint.of(EditableModel.wrap(lm.model.half(), None), LAYER)
    assert ours.covers(Fingerprint.of(EditableModel.wrap(twin.model.bfloat16(), None), LAYER))


def test_another_model_is_not(lm: EditableModel, family: str) -> None:
    other = EditableModel.wrap(build_model(family, len(lm.tokenizer), seed=1), lm.tokenizer)
    assert not Fingerprint.of(lm, LAYER).covers(Fingerprint.of(other, LAYER))
    assert str(Fingerprint.of(lm, LAYER)) != str(Fingerprint.of(other, LAYER))


def test_a_lower_layer_is_covered_by_a_higher_one(lm: EditableModel) -> None:
    low, high = Fingerprint.of(lm, 0), Fingerprint.of(lm, LAYER)
    assert high.covers(low)
    assert not low.covers(high)


def upstream_digest(lm: EditableModel, layer: int) -> str:
    return upstream_digests(lm, [layer])[layer]


def test_digests_are_exact(lm: EditableModel) -> None:
    """Any weight that has a part in the keys counts, and no other."""
    before = upstream_digest(lm, LAYER)
    assert upstream_digest(twin_of(lm), LAYER) == before
    above = {id(p) for p in lm.block(LAYER + 1).parameters()}
    after = {id(p) for p in lm.model.get_submodule(lm.layout.final_norm).parameters()}
    head = {id(p) for p in lm.model.get_output_embeddings().parameters()}
    tied = {id(p) for p in lm.model.get_input_embeddings().parameters()}
    counted = 0
    for parameter in lm.model.parameters():
        value = parameter.detach().view(-1)[-1].item()
        parameter.detach().view(-1)[-1] += 1
        counts = id(parameter) not in above | after | (head - tied)
        assert (upstream_digest(lm, LAYER) != before) is counts
        counted += counts
        parameter.detach().view(-1)[-1] = value
    assert counted
    assert upstream_digest(lm, LAYER - 1) != before
    together = upstream_digests(lm, [LAYER, 0])
    assert together == {layer: upstream_digest(lm, layer) for layer in (LAYER, 0)}
    lm.model.half()
    assert upstream_digest(lm, LAYER) != before


def test_tokenizers_are_told_apart() -> None:
    kinds = ("byte_level", "bos", "metaspace", "slow")
    assert len({tokenizer_digest(tokenizer_of(kind)) for kind in kinds}) == len(kinds)
    assert tokenizer_digest(fast_tokenizer()) == tokenizer_digest(fast_tokenizer())


@pytest.mark.parametrize("size", [1, 31, 2**24 + 3, 38_597_376])
def test_a_parameter_of_any_size_has_a_sample(size: int) -> None:
    """GPT-2's embeddings have 38,597,376 entries, a number that float32 rounds up."""
    assert len(Fingerprint.of_weights([torch.zeros(1).expand(size)]).values) == min(size, 32)
