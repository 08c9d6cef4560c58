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
    before = {folder: _written(folder) for folder in edits}

    def made() -> int:
        return sum(
            total if _written(folder) != before[folder] else min(edits_made(folder), total)
            for folder, total in edits.items()
        )

    over = Event()
    with progress(total=sum(edits.values()), desc=title, unit="edit") as bar:

        def follow() -> None:
            while not over.wait(INTERVAL):
                bar.update(made() - bar.n)

        watcher = Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            bar.update(made() - bar.n)


def _written(folder: Path) -> int | None:
    """When a cell's results were written."""
    try:
        return (folder / METRICS).stat().st_mtime_ns
    except OSError:
        return None
