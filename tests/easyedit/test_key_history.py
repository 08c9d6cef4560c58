"""Keys of earlier edits count for as long as the weight holds those edits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.easyedit.key_history import KeyHistory, mark


def edit(history: KeyHistory, weight: Tensor, key: Tensor) -> None:
    """Send ``key`` elsewhere, as an edit does, and remember that."""
    before = weight.clone()
    weight += torch.outer(torch.ones(len(weight)), key) / key.norm() ** 2
    history.remember(before, weight, key[:, None])


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(4, 6)


@pytest.fixture
def keys() -> Tensor:
    """Three of them, far apart; one a row."""
    return torch.eye(6)[:3]


def remembered(history: KeyHistory) -> list[int]:
    """Which of the keys are in it."""
    return [block.argmax().item() for block in history.past().blocks]


def test_keys_of_all_edits_are_kept_in_order(weight: Tensor, keys: Tensor) -> None:
    history = KeyHistory()
    assert remembered(history) == []
    for key in keys:
        history.rewind(weight)
        edit(history, weight, key)
    history.rewind(weight)
    assert remembered(history) == [0, 1, 2]


def test_edits_that_were_taken_back_are_forgotten(weight: Tensor, keys: Tensor) -> None:
    history, copies = KeyHistory(), []
    for key in keys:
        copies.append(weight.clone())
        edit(history, weight, key)
    weight.copy_(copies[2])  # the third
    history.rewind(weight)
    assert remembered(history) == [0, 1]
    weight.copy_(copies[0])  # the first two
    history.rewind(weight)
    assert history.edits == []


def test_an_edit_of_anothers_takes_nothing_away(weight: Tensor, keys: Tensor) -> None:
    history = KeyHistory()
    edit(history, weight, keys[0])
    weight += 0.1 * torch.randn(4, 6)
    history.rewind(weight)
    between = weight.clone()
    edit(history, weight, keys[1])
    history.rewind(weight)
    assert remembered(history) == [0, 1]
    weight.copy_(between)  # what restores the second edit is not a state that the first one left
    history.rewind(weight)
    assert remembered(history) == [0]


def test_weights_that_come_from_elsewhere_hold_no_edit(weight: Tensor, keys: Tensor) -> None:
    """Say, a checkpoint from before the edits, which was changed since."""
    history, original = KeyHistory(), weight.clone()
    edit(history, weight, keys[0])
    edit(history, weight, keys[1])
    weight.copy_(original + 0.01 * torch.randn(4, 6))
    history.rewind(weight)
    assert history.edits == []


def test_one_fact_edited_twice_counts_twice(weight: Tensor, keys: Tensor) -> None:
    """As in AlphaEdit: while nobody else writes, its keys are all edits' keys."""
    history = KeyHistory()
    edit(history, weight, keys[0])
    edit(history, weight, -3 * keys[0])
    history.rewind(weight)
    assert len(history.edits) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_marks_tell_weights_apart(dtype: torch.dtype) -> None:
    weight = torch.randn(5, 8).to(dtype)
    short = mark(weight)
    assert torch.equal(short, mark(weight.clone()))
    assert short.numel() < weight.numel()
    others = weight.flip(0), weight.flip(1), -weight
    assert not any(torch.equal(short, mark(other)) for other in others)


def test_a_history_keeps_no_part_of_the_weight_alive(weight: Tensor, keys: Tensor) -> None:
    history, copy = KeyHistory(), weight.clone()
    edit(history, weight, keys[0])
    edit(history, copy, keys[0])
    weight.zero_()
    first, second = history.edits
    for one, other in zip(first.marks + first.outputs, second.marks + second.outputs, strict=True):
        assert torch.equal(one, other)
