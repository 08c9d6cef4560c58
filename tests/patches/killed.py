"""Sessions that are killed with SIGKILL; `test_folder` starts this in a process of its own.

Each run is a fork, so that torch is imported once. Some are killed at a counted moment, whenever a
file is opened, locked, renamed or removed; others after a time, which also falls into the midst of
a write. A run says in ``progress`` what it has finished, one byte for each operation.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.patches.sessions import open_session
from tests.patches.edits import LAYERS, edit, fresh

COUNT, MOMENTS, TIMES = 6, 30, 15


def operate(session: EditSession, number: int) -> None:
    """One of: batch, dense batch, batch, the second taken back, something measured, batch."""
    if number == 3:
        session.undo(session.journal[1].name)
    elif number == 4:
        session.note({session.ids[0]: {"rewrite": [1.0]}})
    else:
        edit(session, number, form="dense" if number == 1 else "factored")


def run(folder: Path, kill_at: int | None) -> None:
    """All operations, or as many as come before the audit event that kills."""
    lm, seen = fresh(), 0

    def audit(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    progress = os.open(folder / "progress", os.O_CREAT | os.O_WRONLY)
    sys.addaudithook(audit)
    session = open_session(lm, LAYERS, folder / "journal")
    for number in range(COUNT):
        operate(session, number)
        os.write(progress, b".")
    (folder / "events").write_text(str(seen))


def forked(folder: Path, kill_at: int | None = None, seconds: float | None = None) -> float:
    """Run it in a fork, killed or not; returns how long it lived."""
    folder.mkdir()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        run(folder, kill_at)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return time.perf_counter() - began


def main(place: Path) -> None:
    """One run that is left alone, and then those that are killed."""
    torch.set_num_threads(1)
    whole = forked(place / "whole")
    events = int((place / "whole" / "events").read_text())
    for number in range(MOMENTS):
        forked(place / f"at{number}", kill_at=1 + number * events // MOMENTS)
    for number in range(TIMES):
        forked(place / f"after{number}", seconds=whole * (number + 1) / (TIMES + 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
