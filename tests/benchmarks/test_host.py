"""The host's own methods, where there is a host, write what the engine writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import entries
from benchmarks.host import run_host, why_not
from benchmarks.runs import check, dense_matrices, run_ours
from benchmarks.workload import METHODS, Workload
from tests.host.stubs import import_host
from tests.host.tiny_host import skip_without_host
from tests.tiny import assert_same_weights, weights_of

skip_without_host()


@pytest.mark.parametrize("method", METHODS)
def test_the_host_agrees(load: Workload, method: str) -> None:
    home = os.environ.get("EASYEDIT_HOME")
    import_host(Path(home).resolve() if home else None)
    assert why_not() is None
    task, before = load.tasks[method], weights_of(load.lm)
    row, host = run_host(load.lm, dense_matrices(load, task), task, load.requests)
    ours = run_ours(load, task, load.requests)[1]
    found = check(load.lm, task, "host, ours", len(load.requests), (ours, host))
    assert found.holds
    assert (found.targets is None) == (method == "rome")
    assert all(seconds > 0 for seconds in (row.seconds.targets, row.seconds.keys))
    assert_same_weights(load.lm, before)


def test_entries_are_measured_with_either_engine(capsys: pytest.CaptureFixture[str]) -> None:
    home = os.environ.get("EASYEDIT_HOME")
    import_host(Path(home).resolve() if home else None)
    console = Console(width=120)
    entries.main(["--model", "tiny", "--edits", "2", "--steps", "3"], console)
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "`" in line]
    assert [row[2].strip() for row in rows] == ["`edit`", "`edit`", "`batch_edit`"]
    assert all(float(row[6]) < 1e-3 for row in rows)
