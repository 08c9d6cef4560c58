"""Checkpoints: what a stopped run loses, and that its result is that of one never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.tensor_file import write_tensors
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace import checkpoint as module
from alphaedit_plugin.nullspace.checkpoint import Checkpoint
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import random_sequences

LENGTH, EVERY = 20, 200


class Stopped(Exception):
    """What kills a run."""


def rows_of(lm: EditableModel) -> list[list[int]]:
    return random_sequences(len(lm.tokenizer), count=60, length=LENGTH)


def stopping(rows: list[list[int]], after: int) -> Iterator[list[int]]:
    yield from rows[:after]
    raise Stopped


def counted_forward(lm: EditableModel) -> list[int]:
    """Grows by the tokens that the model reads."""
    seen: list[int] = []
    lm.model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: seen.append(args[0].numel())
    )
    return seen


def run(lm: EditableModel, rows: Any, folder: Path, **more: Any) -> dict[int, SecondMoment]:
    kept = Checkpoint(folder, EVERY)
    return collect_second_moments(lm, rows, [1, 2], budget=50, checkpoint=kept, **more)


@pytest.mark.parametrize("after", [1, 11, 25, 59])
def test_a_stopped_run_goes_on(gpt2: EditableModel, tmp_path: Path, after: int) -> None:
    rows = rows_of(gpt2)
    whole = run(gpt2, rows, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(gpt2, stopping(rows, after), tmp_path / "stopped")
    seen = counted_forward(gpt2)
    resumed = run(gpt2, rows, tmp_path / "stopped")
    for layer, moment in resumed.items():
        assert torch.equal(moment.total, whole[layer].total)
        assert moment.count == whole[layer].count == 60 * LENGTH
    assert sum(seen) <= (60 - after) * LENGTH + EVERY  # never more than an interval twice


def test_it_may_be_stopped_again_and_again(gpt2: EditableModel, tmp_path: Path) -> None:
    rows = rows_of(gpt2)
    for after in (15, 30, 45):
        with pytest.raises(Stopped):
            run(gpt2, stopping(rows, after), tmp_path / "stopped")
    resumed = run(gpt2, rows, tmp_path / "stopped", tokens=1111)
    whole = run(gpt2, rows, tmp_path / "whole", tokens=1111)
    assert torch.equal(resumed[2].total, whole[2].total)
    assert resumed[2].count == 1111


@pytest.mark.parametrize("passes", [1, 9, 15])
def test_a_run_that_is_stopped_within_a_long_text_goes_on_there(
    gpt2: EditableModel, tmp_path: Path, passes: int
) -> None:
    ids = [token for row in rows_of(gpt2) for token in row]
    texts = [ids[:7], ids[7:]]  # windows of the model's context, 64
    whole = run(gpt2, texts, tmp_path / "whole")
    left = passes

    def stop(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped

    hook = gpt2.block(0).register_forward_pre_hook(stop)
    with pytest.raises(Stopped):
        run(gpt2, texts, tmp_path / "stopped")
    hook.remove()
    seen = counted_forward(gpt2)
    resumed = run(gpt2, texts, tmp_path / "stopped")
    assert torch.equal(resumed[2].total, whole[2].total)
    assert resumed[2].count == len(ids)
    if passes > 8:
        assert sum(seen) < len(ids) - 64


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_a_damaged_checkpoint_is_not_used(gpt2: EditableModel, tmp_path: Path, damage: str) -> None:
    rows = rows_of(gpt2)
    with pytest.raises(Stopped):
        run(gpt2, stopping(rows, 40), tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    spoiled = {"truncated": content[:-200], "empty": b"", "foreign": b"{}" * 99}
    path.write_bytes(spoiled[damage])
    found = run(gpt2, rows, tmp_path)
    assert torch.equal(found[1].total, run(gpt2, rows, tmp_path / "whole")[1].total)


def test_one_generation_is_kept_and_then_none(gpt2: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(gpt2, stopping(rows_of(gpt2), 50), tmp_path / "run")
    assert len(list((tmp_path / "run").iterdir())) == 1
    (tmp_path / "run" / "x.part").touch()  # of a process that was killed while writing
    Checkpoint(tmp_path / "run", EVERY).clear()
    assert not (tmp_path / "run").exists()
    Checkpoint(tmp_path / "run", EVERY).clear()


def test_a_checkpoint_that_cannot_be_written_stops_nothing(
    gpt2: EditableModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    found = run(gpt2, rows_of(gpt2), tmp_path / "file" / "run")
    assert found[1].count == 60 * LENGTH
    assert "going on without a checkpoint" in caplog.text


@pytest.mark.parametrize("every", [0, -5])
def test_no_interval_is_refused(tmp_path: Path, every: int) -> None:
    with pytest.raises(ConfigError, match=f"checkpoint is {every}: give at least 1"):
        Checkpoint(tmp_path, every)


def test_an_interval_of_one_token_keeps_every_text(
    gpt2: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def count(path: Path, tensors: Any, content: Any) -> None:
        written.append(content["position"]["texts"])
        write_tensors(path, tensors, content)

    monkeypatch.setattr(module, "write_tensors", count)
    collect_second_moments(gpt2, rows_of(gpt2)[:5], [1], checkpoint=Checkpoint(tmp_path, 1))
    assert written == [1, 2, 3, 4, 5]
