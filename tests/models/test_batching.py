from __future__ import annotations

import logging
import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alphaedit_plugin.common.errors import OutOfMemory, is_out_of_memory
from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.models import batching
from alphaedit_plugin.models.activations import Part, Site
from alphaedit_plugin.models.batching import (
    activation_bytes,
    activation_room,
    alike,
    in_token_budget,
    micro_batches,
)
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import CONTEXTS, REQUESTS, build_model, targets_of

LM = EditableModel.wrap(build_model("gpt2", 99), None)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 300), st.integers(40, 200))
def test_everything_is_done_once_within_what_fits(
    lengths: list[int], budget: int, fits: int
) -> None:
    done: list[int] = []

    def work(indices: list[int]) -> None:
        if len(indices) * max(lengths[i] for i in indices) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        done.extend(indices)

    in_token_budget(LM, lengths, budget, work)
    assert sorted(done) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 50), max_size=40))
def test_sentences_run_together_where_padding_costs_less_than_a_pass(lengths: list[int]) -> None:
    groups = alike(LM, lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    ordered = [[lengths[i] for i in group] for group in groups]
    for group, following in zip_longest(ordered, ordered[1:], fillvalue=[]):
        padding = sum(max(group) - length for length in group)
        assert padding <= batching.PASS_TOKENS["cpu"]
        joined = [length for length in following if length == following[0]]
        more = sum(max(group) - length for length in joined)
        assert not following or padding + more > batching.PASS_TOKENS["cpu"]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_micro_batches_cover_everything_once_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = micro_batches(LM, lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    sizes = [max(lengths[i] for i in batch) * len(batch) for batch in batches]
    assert all(s <= budget or len(b) == 1 for s, b in zip(sizes, batches, strict=True))
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_each_step_halves_what_is_done_at_once(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def work(indices: list[int]) -> None:
        tried.append(len(indices))
        if len(indices) > 3:
            raise MemoryError

    with caplog.at_level(logging.WARNING):
        in_token_budget(LM, [2] * 16, 1000, work)
    assert tried == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert caplog.messages[0] == "out of memory with 32 tokens at once: going on with 16"
    assert len(caplog.messages) == 3


def test_one_item_that_does_not_fit_is_said() -> None:
    def work(indices: list[int]) -> None:
        if 3 in indices:
            raise RuntimeError("MPS backend out of memory")

    with pytest.raises(OutOfMemory, match=r"one item of 7 tokens: set model\.dtype=bfloat16"):
        in_token_budget(LM, [1, 2, 3, 7, 4], 1000, work)


def test_other_errors_pass() -> None:
    def work(indices: list[int]) -> None:
        raise RuntimeError("expected scalar type Float")

    with pytest.raises(RuntimeError, match="scalar type"):
        in_token_budget(LM, [1, 2], 10, work)


def test_what_torch_says_without_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(OSError("out of memory"))


def test_what_a_search_keeps_for_its_gradients_is_foreseen(
    lm: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against every tensor that autograd keeps, counted."""
    kept: dict[int, int] = {}
    owned = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    foreseen: list[float] = []
    original = batching.in_token_budget

    def watched(*args: Any) -> None:
        lengths, needed = args[1], args[4]
        foreseen.append(len(lengths) * max(lengths) * needed)
        original(*args)

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    monkeypatch.setattr("alphaedit_plugin.editing.targets.in_token_budget", watched)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        targets_of(
            lm, REQUESTS * 4, CONTEXTS, Site(1, Part.BLOCK), FactToken.subject_last,
            TargetSettings(steps=2),
        )  # fmt: skip
    assert 0.7 * sum(kept.values()) < foreseen[0] < 3 * sum(kept.values())


def test_a_large_model_does_less_at_once_and_says_how_much(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batching, "activation_room", lambda lm: int(10 * activation_bytes(lm)))
    sizes: list[int] = []
    with caplog.at_level(logging.INFO):
        in_token_budget(gpt2, [5] * 7, 1000, lambda part: sizes.append(len(part)), name="search")
        in_token_budget(gpt2, [5] * 7, 5, lambda part: sizes.append(len(part)))
    assert sizes == [2, 2, 2, 1] + [1] * 7  # ten tokens fit; the setting is a bound all the same
    assert "search: 7 items in 4 parts of at most 10 tokens, about " in caplog.text


def test_room_is_a_share_of_all_memory_less_the_model(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(p.numel() * p.element_size() for p in gpt2.model.parameters())
    for total, room in ((2**34, 2**31), (2**34 + size, 2**32), (1000, 2**20), (None, None)):
        monkeypatch.setattr(batching, "_memory_of", lambda device, total=total: total)
        assert activation_room(gpt2) == room
    monkeypatch.undo()
    assert activation_room(gpt2) == activation_room(gpt2)


def test_a_container_may_use_less_than_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(batching, "CGROUP_LIMITS", (str(limit), str(tmp_path / "not there")))
    for content, expected in (("max", whole), ("4096", 4096)):
        limit.write_text(content)
        assert batching._memory_of(torch.device("cpu")) == expected
