"""A cell that was ended goes on after its last batch, and finds the same figures, to the bit."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.experiments.cell import Standing, run_cell
from alphaedit_plugin.experiments.cells import Cell
from alphaedit_plugin.experiments.checkpoint import Checkpoint
from alphaedit_plugin.experiments.comparison import run_comparison
from alphaedit_plugin.experiments.grid import grid
from alphaedit_plugin.experiments.study import Study, prepare
from tests.killed import killed_at
from tests.tiny import assert_same_weights, weights_of

QUICK = [
    "model.target.steps=5", "model.moments.tokens=3000", "compare.retention=10",
    "compare.every=2", "batch_size=4", "compare.edits=18",
]  # fmt: skip


class Ended(Exception):
    """What ends a run here, where a process would be killed."""


@pytest.fixture(scope="module")
def study() -> Study:
    return prepare(grid([*QUICK, "compare.bases=[memit,prune,rect,rome]"]))


def ending_after(edits: int) -> Callable[[int], None]:
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if done > edits:
            raise Ended

    return advance


def measured(cell: Cell) -> Cell:
    """Without what differs from run to run."""
    return replace(cell, seconds=0.0)


# Of memit, prune, rect and rome plain and projected: 4 edits are behind an evaluation, 12 are not.
@pytest.mark.parametrize(("number", "edits"), [(0, 4), (1, 12), (3, 4), (4, 12), (7, 12)])
def test_an_ended_cell_goes_on_to_the_same_bits(
    study: Study, number: int, edits: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job, lm, data = study.jobs[number], study.lm, study.data
    checkpoint = study.checkpoint(job, tmp_path / "state")
    whole = run_cell(job, lm, data, lambda edits: None)
    before = weights_of(lm)
    with pytest.raises(Ended):
        run_cell(job, lm, data, ending_after(edits), checkpoint)
    assert_same_weights(lm, before)
    steps: list[int] = []
    cell = run_cell(job, lm, data, steps.append, checkpoint)
    assert steps[0] == edits
    assert sum(steps) == len(data.requests)
    assert measured(cell) == measured(whole)
    steps.clear()
    caplog.clear()
    with caplog.at_level(logging.INFO, "alphaedit_plugin"):
        assert run_cell(job, lm, data, steps.append, checkpoint) == cell
    assert steps == [len(data.requests)]
    (line,) = caplog.messages
    assert line.startswith(f"{cell.name} was done by an earlier run, and is not run again")


@pytest.mark.parametrize(
    "change", ["seed=1", "batch_size=6", "model.target.lr=0.2", "projector.l2=3", "compare.every=1"]
)
def test_what_another_run_left_is_not_used(study: Study, change: str, tmp_path: Path) -> None:
    job = study.jobs[1]
    changed = replace(job, config=grid([*QUICK, "compare.bases=[memit]", change])[1])
    mine, theirs = (study.checkpoint(one, tmp_path / "state") for one in (job, changed))
    assert mine is not None
    assert theirs is not None
    mine.close(Standing())
    session = EditSession(study.lm, job.recipe.layers)
    assert theirs.restore(session, study.data.requests, Standing) is None
    assert mine.restore(session, study.data.requests, Standing) == Standing()


def test_other_requests_are_another_run(study: Study, tmp_path: Path) -> None:
    fewer = replace(study, data=replace(study.data, requests=study.data.requests[:-1]))
    job, path = study.jobs[0], tmp_path / "state"
    assert study.checkpoint(job, path) != fewer.checkpoint(job, path)


def test_beginning_anew_can_be_asked_for(study: Study, tmp_path: Path) -> None:
    asked = grid([*QUICK, "compare.bases=[memit]", "compare.resume=false"])[0]
    assert study.checkpoint(replace(study.jobs[0], config=asked), tmp_path / "state") is None


def test_places_and_numbers_of_processes_make_no_other_run(study: Study, tmp_path: Path) -> None:
    asked = grid([*QUICK, "compare.bases=[memit]", f"compare.out={tmp_path}", "compare.jobs=3"])
    job, path = study.jobs[0], tmp_path / "state"
    assert study.checkpoint(replace(job, config=asked[0]), path) == study.checkpoint(job, path)


def test_a_damaged_file_is_begun_anew(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"half a fi")
    session = EditSession(study.lm, study.jobs[0].recipe.layers)
    assert Checkpoint(path, "mine").restore(session, study.data.requests, Standing) is None
    assert "beginning anew" in caplog.text


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    checkpoint = Checkpoint(tmp_path / "file" / "state", "mine")
    with pytest.raises(ConfigError, match="cannot be written"):
        checkpoint.close(Standing())


def test_killed_for_real(tmp_path: Path) -> None:
    """SIGKILL in the middle of a process, then the same command."""
    words = [*QUICK, "compare.bases=[memit]", "compare.edits=30", "compare.jobs=1"]

    def documented(folder: Path) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
        del document["command"]
        for cell in document["cells"]:
            del cell["seconds"]
        return document

    run_comparison([*words, f"compare.out={tmp_path / 'whole'}"], Console(quiet=True))
    words.append(f"compare.out={tmp_path / 'killed'}")
    second = tmp_path / "killed" / "unfinished" / "1.safetensors"
    killed_at("os.rename", f"{second}.*", ["compare", *words], tmp_path / "cache", nth=2)
    assert second.exists()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    line = [sys.executable, "-m", "alphaedit_plugin", "compare", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=400, check=True)
    assert "edits of an earlier run" in done.stderr
    assert documented(tmp_path / "killed") == documented(tmp_path / "whole")
    assert not second.parent.exists()
