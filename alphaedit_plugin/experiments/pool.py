"""Runs cells at once, each in a process of its own, where that is faster than one by one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread, current_thread, main_thread

from joblib import Parallel, delayed, parallel_config
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from alphaedit_plugin.common.console import watched
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.build import cpu_threads
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.experiments.cell import run_cell
from alphaedit_plugin.experiments.cells import Cell
from alphaedit_plugin.experiments.checkpoint import Checkpoint
from alphaedit_plugin.experiments.jobs import Job
from alphaedit_plugin.models.editable import EditableModel

SMALL = 2**28  # bytes: a larger model keeps all cores busy alone, and copies of it fill the memory


def workers(config: EditorConfig, lm: EditableModel, cells: int) -> int:
    """How many cells run at once.

    Raises:
        ConfigError: several are asked for on an accelerator, which they would fight over.
    """
    asked = config.compare.jobs
    if lm.device.type != "cpu":
        if asked is not None and asked > 1:
            raise ConfigError(f"compare.jobs={asked} is for the CPU: leave it away on {lm.device}")
        return 1
    return min(cells, asked or (_cores() if _is_small(lm) else 1))


def threads_of(config: EditorConfig, lm: EditableModel, at_once: int) -> int:
    """How many threads a cell uses where so many run at once.

    For a small model the same number alone or side by side: sums come out the same, to the bit.
    """
    threads = 1 if _is_small(lm) else max(1, _cores() // at_once)
    return min(threads, config.model.threads or threads)


def run_all(
    jobs: Sequence[Job],
    lm: EditableModel,
    data: EditData,
    console: Console,
    checkpoints: Sequence[Checkpoint | None] | None = None,
) -> list[Cell]:
    """Run every cell; the result does not depend on how many run at once.

    Args:
        jobs: the cells.
        lm: the pristine model.
        data: the requests, and the facts that must survive.
        console: where the progress bar goes.
        checkpoints: one per cell, see `run_cell`.

    Returns:
        The cells in the order of ``jobs``.

    Raises:
        AlphaEditError: what a cell raised; the others are ended then.
    """
    config = jobs[0].config
    at_once = workers(config, lm, len(jobs))
    threads = threads_of(config, lm, at_once)
    kept = checkpoints or [None] * len(jobs)
    if at_once == 1:
        with _progress(console, "editing", jobs, data) as (progress, task), cpu_threads(threads):
            return [
                run_cell(job, lm, data, lambda n: progress.advance(task, n), checkpoint)
                for job, checkpoint in zip(jobs, kept, strict=True)
            ]
    found: dict[int, Cell] = {}
    # Whatever edits one request at a time takes longest: begun last, it would run on alone.
    order = sorted(range(len(jobs)), key=lambda n: not jobs[n].recipe.method.one_by_one)
    title = f"{len(jobs)} cells, {at_once} at once"
    with (
        _progress(console, title, jobs, data) as (progress, task),
        _counted(progress, task) as count,
    ):
        calls = (
            delayed(_run_in_worker)(n, jobs[n], lm, data, count, threads, kept[n]) for n in order
        )
        with parallel_config("loky", inner_max_num_threads=threads):
            pool = Parallel(at_once, return_as="generator_unordered", batch_size=1)
        with _no_interrupt():
            results = pool(calls)
        for number, cell in results:
            found[number] = cell
    return [found[number] for number in range(len(jobs))]


def _run_in_worker(
    number: int,
    job: Job,
    lm: EditableModel,
    data: EditData,
    count: Path,
    threads: int,
    checkpoint: Checkpoint | None,
) -> tuple[int, Cell]:
    def advance(edits: int) -> None:
        with count.open("ab") as stream:
            stream.write(b"." * edits)

    with cpu_threads(threads):
        return number, run_cell(job, lm, data, advance, checkpoint)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes that are begun inside leave Ctrl-C to this one, which ends them in silence."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _counted(progress: Progress, task: TaskID) -> Iterator[Path]:
    """A file to which every process adds a byte per edit: its size is the progress."""
    done = Event()
    with TemporaryDirectory() as folder:
        count = Path(folder) / "edits"
        count.touch()

        def follow() -> None:
            while not done.wait(0.2):
                progress.update(task, completed=count.stat().st_size)

        thread = Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield count
        finally:
            done.set()
            thread.join()
            progress.update(task, completed=count.stat().st_size)


@contextmanager
def _progress(
    console: Console, title: str, jobs: Sequence[Job], data: EditData
) -> Iterator[tuple[Progress, TaskID]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("edits"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    edits = min(jobs[0].config.compare.edits, len(data.requests))
    hidden = not watched(console)
    with Progress(*columns, console=console, disable=hidden) as progress:
        yield progress, progress.add_task(title, total=len(jobs) * edits)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_small(lm: EditableModel) -> bool:
    """Whether copies of the model cost little, on a CPU."""
    size = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    return lm.device.type == "cpu" and size <= SMALL
