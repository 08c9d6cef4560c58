"""Keys of earlier edits count for as long as the weights hold those edits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.easyedit.history import KeyHistory, marks


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return {"a": torch.randn(4, 6), "b": torch.randn(6, 4)}


def keys(value: float, count: int = 1) -> dict[str, Tensor]:
    return {"a": torch.full((6, count), value)}


def test_keys_of_all_edits_are_kept_in_order(weights: dict[str, Tensor]) -> None:
    history = KeyHistory()
    assert history.past_keys("a") is None
    for value, count in ((1.0, 2), (2.0, 1)):
        history.rewind(weights)
        weights["a"] += value
        history.remember(weights, keys(value, count))
    history.rewind(weights)
    past = history.past_keys("a")
    assert past is not None
    assert past[0].tolist() == [1.0, 1.0, 2.0]
    assert history.past_keys("b") is None


def test_edits_that_were_taken_back_are_forgotten(weights: dict[str, Tensor]) -> None:
    history, copies = KeyHistory(), []
    for value in (1.0, 2.0, 3.0):
        copies.append(weights["a"].clone())
        weights["a"] += value
        history.remember(weights, keys(value))
    weights["a"].copy_(copies[2])  # the third
    history.rewind(weights)
    assert [entry[1]["a"][0].item() for entry in history.entries] == [1.0, 2.0]
    weights["a"].copy_(copies[0])  # the first two
    history.rewind(weights)
    assert history.entries == []


def test_one_foreign_weight_is_enough_to_forget(weights: dict[str, Tensor]) -> None:
    history = KeyHistory()
    history.remember(weights, keys(1.0))
    weights["b"][0, 0] += 1e-3
    history.rewind(weights)
    assert history.entries == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_marks_tell_weights_apart(dtype: torch.dtype) -> None:
    weight = torch.randn(5, 8).to(dtype)
    (mark,) = marks({"a": weight}).values()
    assert torch.equal(mark, marks({"a": weight.clone()})["a"])
    assert mark.numel() < weight.numel()
    others = {"rows": weight.flip(0), "columns": weight.flip(1), "sign": -weight}
    assert not any(torch.equal(mark, marks({n: w})[n]) for n, w in others.items())


def test_a_mark_keeps_no_part_of_the_weight_alive(weights: dict[str, Tensor]) -> None:
    before = marks(weights)
    kept = before["a"].clone()
    weights["a"].zero_()
    assert torch.equal(before["a"], kept)
