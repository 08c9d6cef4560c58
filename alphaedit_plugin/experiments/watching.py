"""A progress bar over the edits of all cells, whichever processes run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from alphaedit_plugin.common.progress import progress
from alphaedit_plugin.experiments.results import METRICS
from alphaedit_plugin.experiments.resuming import edits_made

INTERVAL = 0.5  # seconds between two looks at the cells' folders


@contextmanager
def progress_of(edits: Mapping[Path, int], title: str) -> Iterator[None]:
    """Show how far cells are, while they run inside.

    Args:
        edits: how many each cell makes in all, by its folder.
        title: what the bar is of.
    """
    before, over = results_of(edits), Event()
    with progress(total=sum(edits.values()), desc=title, unit="edit") as bar:

        def follow() -> None:
            shown = 0
            while True:
                last = over.wait(INTERVAL)
                made = edits_so_far(edits, before)
                bar.update(made - shown)
                shown = made
                if last:
                    return

        watcher = Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def edits_so_far(edits: Mapping[Path, int], before: Mapping[Path, int | None]) -> int:
    """How many edits all cells have made; those whose results are new since ``before`` are done."""
    now = results_of(edits)
    return sum(
        total if now[folder] != before[folder] else min(edits_made(folder), total)
        for folder, total in edits.items()
    )


def results_of(edits: Mapping[Path, int]) -> dict[Path, int | None]:
    """When each cell's results were written; ``None`` where there are none."""
    files = {folder: folder / METRICS for folder in edits}
    return {
        folder: file.stat().st_mtime_ns if file.exists() else None for folder, file in files.items()
    }
