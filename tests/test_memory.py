from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.errors import OutOfMemory, is_out_of_memory
from alphaedit_plugin.memory import in_token_budget


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 300), st.integers(40, 200))
def test_everything_is_done_once_within_what_fits(
    lengths: list[int], budget: int, fits: int
) -> None:
    done: list[int] = []

    def work(indices: list[int]) -> None:
        if len(indices) * max(lengths[i] for i in indices) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        done.extend(indices)

    in_token_budget(lengths, budget, work)
    assert sorted(done) == list(range(len(lengths)))


def test_each_step_halves_what_is_done_at_once(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def work(indices: list[int]) -> None:
        tried.append(len(indices))
        if len(indices) > 3:
            raise MemoryError

    with caplog.at_level(logging.WARNING):
        in_token_budget([2] * 16, 1000, work)
    assert tried == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert caplog.messages[0] == "out of memory with 32 tokens at once: going on with 16"
    assert len(caplog.messages) == 3


def test_one_item_that_does_not_fit_is_said() -> None:
    def work(indices: list[int]) -> None:
        if 3 in indices:
            raise RuntimeError("MPS backend out of memory")

    with pytest.raises(OutOfMemory, match=r"one item of 7 tokens: set model\.dtype=bfloat16"):
        in_token_budget([1, 2, 3, 7, 4], 1000, work)


def test_other_errors_pass() -> None:
    def work(indices: list[int]) -> None:
        raise RuntimeError("expected scalar type Float")

    with pytest.raises(RuntimeError, match="scalar type"):
        in_token_budget([1, 2], 10, work)


def test_what_torch_says_without_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(OSError("out of memory"))
