"""The progress of cells, from their folders."""

from __future__ import annotations

import os
from pathlib import Path

from alphaedit_plugin.experiments.results import METRICS, write_cell
from alphaedit_plugin.experiments.resuming import CellState, write_state
from alphaedit_plugin.experiments.watching import edits_so_far, progress_of, results_of
from tests.experiments.made import cell


def test_cells_count_by_what_is_in_their_folders(tmp_path: Path) -> None:
    running, done, waiting = (tmp_path / name for name in ("running", "done", "waiting"))
    edits = {running: 30, done: 30, waiting: 30}
    for folder in (running, done):
        folder.mkdir()
        write_cell(cell("memit", False, 0.5), folder)  # of an earlier run
    before = results_of(edits)
    assert edits_so_far(edits, before) == 0
    write_state(CellState(edits=20), running, "identity")
    os.utime(done / METRICS, (0, 0))
    assert edits_so_far(edits, before) == 20 + 30
    with progress_of(edits, "3 cells"):
        write_state(CellState(edits=99), running, "identity")
    assert edits_so_far(edits, before) == 30 + 30
