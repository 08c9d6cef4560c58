"""Cells side by side: the figures of one by one, in the grid's order; errors; Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError, NumericalError
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.experiments.comparison import run_comparison
from alphaedit_plugin.experiments.grid import grid
from alphaedit_plugin.experiments.jobs import Shared
from alphaedit_plugin.experiments.pool import run_all, workers
from alphaedit_plugin.methods.base import LayerProblem
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.models.editable import EditableModel

QUICK = [
    "model.target.steps=6", "model.moments.tokens=3000", "compare.retention=20",
    "compare.every=1", "batch_size=4", "compare.edits=8", "compare.bases=[memit,rome]",
]  # fmt: skip


def measured(folder: Path, jobs: int, shown: Path, terminal: bool) -> dict[str, Any]:
    """What a run wrote, without what differs from run to run."""
    with shown.open("w") as stream:
        console = Console(file=stream, force_terminal=terminal, width=100)
        run_comparison([*QUICK, f"compare.jobs={jobs}", f"compare.out={folder}"], console)
    document: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    del document["command"]
    for cell in document["cells"]:
        assert cell.pop("seconds") > 0
    return document


def test_side_by_side_as_one_by_one(tmp_path: Path) -> None:
    alone = measured(tmp_path / "1", 1, tmp_path / "alone", terminal=False)
    together = measured(tmp_path / "2", 2, tmp_path / "together", terminal=True)
    assert alone == together
    names = [(cell["base"], cell["null_space"]) for cell in together["cells"]]
    assert names == [(base, flag) for base in ("memit", "rome") for flag in (False, True)]
    shown = (tmp_path / "together").read_text()
    assert "4 cells, 2 at once" in shown
    assert "32/32" in shown
    assert (tmp_path / "alone").read_text().lstrip().startswith("After 8 sequential edits")


class Failing(Memit):
    """Fails as a method does whose numbers overflow."""

    def solve(self, problem: LayerProblem) -> Delta:
        raise NumericalError("left the finite numbers")


def test_an_error_in_a_cell_is_the_errors_own() -> None:
    configs = grid([*QUICK, "compare.jobs=2", "compare.bases=[memit]"])
    lm = load_model(configs[0].model)
    jobs = [Shared(lm).job_of(config) for config in configs[:1]] * 2
    failing = [
        type(job)(job.config, type(job.recipe)(**vars(job.recipe) | {"method": Failing()}), {})
        for job in jobs
    ]
    with pytest.raises(NumericalError, match=r"^left the finite numbers$"):
        run_all(failing, lm, load_data(configs[0]), Console(quiet=True))


def test_how_many_run_at_once(gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    (config, _) = grid(["compare.bases=[memit]"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert workers(config, gpt2, 8) == 3
    assert workers(config, gpt2, 2) == 2
    (asked, _) = grid(["compare.bases=[memit]", "compare.jobs=5"])
    assert workers(asked, gpt2, 8) == 5
    with torch.device("meta"):
        large = EditableModel(torch.nn.Linear(10, 10), gpt2.tokenizer, gpt2.layout)
    monkeypatch.setattr(EditableModel, "device", torch.device("cuda"))
    assert workers(config, large, 8) == 1
    with pytest.raises(ConfigError, match=r"compare\.jobs=5 is for the CPU"):
        workers(asked, large, 8)


def test_a_large_model_runs_one_cell_at_a_time(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alphaedit_plugin.experiments.pool.SMALL", 10)
    (config, _) = grid(["compare.bases=[memit]"])
    assert workers(config, gpt2, 8) == 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    words = [*QUICK, "compare.edits=200", "compare.jobs=2", f"compare.out={tmp_path}"]
    command = subprocess.Popen(
        [sys.executable, "-m", "alphaedit_plugin", "compare", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heeds_ctrl_c,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while len(family(command.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(family(command.pid)) >= 3
    time.sleep(1)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 130
    assert errors.rstrip().endswith("alphaedit: interrupted")
    assert "Traceback" not in errors
    while family(command.pid) and time.monotonic() < deadline + 60:
        time.sleep(0.2)
    assert not family(command.pid)


def heeds_ctrl_c() -> None:
    """A shell that starts the tests in the background has them ignore it, and their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def family(group: int) -> list[int]:
    """The processes of a process group that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(folder.name))
    return found
