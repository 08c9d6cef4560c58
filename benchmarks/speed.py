"""The command: ``python -m benchmarks.speed [--model gpt2] [--batches 1 10 100] [--quick]``."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, get_args

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from alphaedit_plugin.config.build import cpu_threads
from alphaedit_plugin.config.model import Dtype
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.nullspace.cut import Cut
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from benchmarks.growth import grow, wide
from benchmarks.host import run_host, why_not
from benchmarks.measure import Seconds
from benchmarks.models import SHAPES, build
from benchmarks.plots import plot
from benchmarks.published import null_projection
from benchmarks.report import NAMES, PICTURE, Results, notes, tables, write
from benchmarks.runs import (
    TOLERANCE,
    Check,
    Row,
    apart,
    check,
    closed_forms,
    dense_matrices,
    run_ours,
    run_plain,
)
from benchmarks.workload import METHODS, Task, Words, Workload, build_tasks, collect, null_cut

T = TypeVar("T")

QUICK = {
    "model": "tiny",
    "batches": [1, 4],
    "history": [0, 50],
    "steps": 4,
    "wide": [64, 20, 50],
}
WIDE = [1600, 100, 1000]  # GPT-2 XL's width, a batch, and edits so far
GROWTH_BATCH = 10


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--model", choices=list(SHAPES), default="gpt2", help="shape of the model")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS),
                        help="to compare; none skips the comparison")  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 10], help="batch sizes")
    parser.add_argument("--plain-edits", type=int, default=1,
                        help="at most so many edits on the slow sides")  # fmt: skip
    parser.add_argument("--history", nargs="*", type=int, default=[0, 100, 1000, 3000],
                        help="edits so far, for the growth tables; none skips them")  # fmt: skip
    parser.add_argument("--wide", nargs="*", type=int, default=WIDE, metavar="NUMBER",
                        help="a wide block: width, batch, edits so far")  # fmt: skip
    parser.add_argument("--steps", type=int, help="of the target search; default: the paper's")
    parser.add_argument("--tokens", type=int, help="of the second moments; default: 2 d_in")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="float32")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    parser.add_argument("--quick", action="store_true", help="a tiny model, in seconds")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    if options.wide and len(options.wide) != 3:
        parser.error("--wide takes three numbers, or none")
    if min(options.batches) < 1 or options.plain_edits < 1:
        parser.error("batch sizes and --plain-edits must be at least 1")
    options.command = " ".join(["python -m benchmarks.speed", *arguments])
    return options


def prepare(options: argparse.Namespace, results: Results) -> Workload:
    """The model and all that the sides share; notes what is done once per model."""
    shape = SHAPES[options.model]
    lm = build(shape, getattr(torch, options.dtype), torch.device(options.device), options.seed)
    tasks = build_tasks(lm, shape, options.steps or shape.steps, options.seed)
    tasks = {method: tasks[method] for method in METHODS}
    d_in = lm.weight(shape.rome_layer).shape[1]
    layers = (*shape.layers, shape.rome_layer)
    moments = collect(lm, layers, options.tokens or 2 * d_in, options.seed)
    projectors = fit(moments, shape.layers, null_cut(d_in), results)
    most = max(*options.batches, options.plain_edits, GROWTH_BATCH + 1)
    return Workload(lm, tasks, Words(lm, options.seed).requests(most), moments, projectors)


def fit(
    moments: dict[int, SecondMoment], layers: Sequence[int], cut: Cut, results: Results
) -> dict[int, Projector]:
    """Projectors of ``layers``; times what is done once per layer, and checks the first."""
    first = moments[layers[0]]
    projector, eigenvectors = timed(lambda: Projector.fit(first, cut))
    rank = int(cut.value)
    _, singular = timed(lambda: null_projection(first.mean, rank))
    results.once["projector"] = (singular, eigenvectors)
    _, factor = timed(lambda: first.factor)
    _, inverse = timed(lambda: torch.linalg.inv(first.mean))
    results.once["inverse of C, or its factor"] = (inverse, factor)
    # In float32, as published and timed, eigenvectors beside the cut mix: no measure for ours.
    exact = null_projection(first.mean, rank, torch.float64)
    identity = torch.eye(projector.d_in, device=exact.device)
    distance = apart(projector.apply(identity), exact)
    verdict = distance <= TOLERANCE["deltas"]
    results.checks.append(Check("alphaedit", "plain, ours: P", 0, None, distance, verdict))
    return {layer: Projector.fit(moments[layer], cut) for layer in layers}


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """What ``run`` gives, and the seconds it took."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def compare(
    options: argparse.Namespace, load: Workload, results: Results, progress: Progress
) -> None:
    """Every method at every batch size, on all sides."""
    hosted = results.skipped is None
    for method in options.methods:
        task = load.tasks[method]
        dense = dense_matrices(load, task)
        batches = sorted(set(options.batches) | {options.plain_edits})
        # ROME edits one by one: a larger batch is only more of the same.
        batches = [batch for batch in batches if method != "rome" or batch <= options.plain_edits]
        bar = progress.add_task(NAMES[method], total=len(batches) + 1)
        _warm_up(load, dense, task)
        progress.advance(bar)
        for batch in batches:
            requests = load.requests[:batch]
            if batch <= options.plain_edits:
                _all_sides(load, dense, task, requests, results, hosted)
            else:
                _ours_and_closed_forms(load, dense, task, requests, results)
            progress.advance(bar)
        write(results, options.out)  # a long run that is broken off leaves what it has


def _warm_up(load: Workload, dense: dict[int, Tensor], task: Task) -> None:
    """One short edit on each side, so that neither pays for what happens once."""
    short = replace(task, search=replace(task.search, steps=2))
    run_ours(load, short, load.requests[:1])
    run_plain(load, dense, short, load.requests[:1])


def _all_sides(
    load: Workload,
    dense: dict[int, Tensor],
    task: Task,
    requests: Sequence[Request],
    results: Results,
    hosted: bool,
) -> None:
    row, ours, _ = run_ours(load, task, requests)
    results.rows.append(row)
    row, plain = run_plain(load, dense, task, requests)
    results.rows.append(row)
    results.checks.append(check(load.lm, task, "plain, ours", len(requests), (ours, plain)))
    if hosted:
        row, host = run_host(load.lm, dense, task, requests)
        results.rows.append(row)
        results.checks.append(check(load.lm, task, "host, ours", len(requests), (ours, host)))


def _ours_and_closed_forms(
    load: Workload,
    dense: dict[int, Tensor],
    task: Task,
    requests: Sequence[Request],
    results: Results,
) -> None:
    """Ours in full; the slow sides' searches and keys as timed on the fewer edits before."""
    row, _, seen = run_ours(load, task, requests)
    results.rows.append(row)
    solve, verdict = closed_forms(load, dense, task, seen)
    results.checks.append(verdict)
    for side in ("plain", "host"):
        known = [r for r in results.rows if (r.method, r.side) == (task.method, side)]
        for fewer in sorted(known, key=lambda row: row.measured)[-1:]:
            results.rows.append(larger(fewer, len(requests), solve if side == "plain" else None))


def larger(fewer: Row, count: int, solve: float | None) -> Row:
    """A row for ``count`` requests, from that of fewer.

    Args:
        fewer: what was timed.
        count: requests of the larger batch.
        solve: seconds of its closed forms; ``None`` takes them to cost what the smaller batch's
            did, which they do at least.
    """
    seconds, share = fewer.seconds, fewer.batch / count
    solved = seconds.solve * share if solve is None else solve / count
    spread = Seconds(seconds.targets, seconds.keys, solved, seconds.write * share)
    return Row(fewer.method, fewer.side, count, spread, None, fewer.measured)


def grow_with_history(
    options: argparse.Namespace, load: Workload, results: Results, progress: Progress
) -> None:
    """AlphaEdit over the edits so far."""
    bar = progress.add_task("edits so far", total=len(options.history))
    dense = dense_matrices(load, load.tasks["alphaedit"]) if options.history else {}
    for history in options.history:
        requests = load.requests[: GROWTH_BATCH + 1]
        results.growth.append(grow(options.model, load, dense, requests, history))
        progress.advance(bar)


def grow_wide(options: argparse.Namespace, results: Results) -> None:
    """AlphaEdit's closed form in a wide block."""
    d_model, batch, history = options.wide
    block = wide(d_model, batch + 1, torch.device(options.device), options.seed)
    dense = dense_matrices(block, block.tasks["alphaedit"])
    results.growth.append(grow("one wide block", block, dense, block.requests, history))


def run(options: argparse.Namespace, console: Console) -> Results:
    """Measure everything, and write the report."""
    results = Results({k: str(v) for k, v in vars(options).items()}, skipped=why_not())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        cpu_threads(options.threads),
        Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress,
    ):
        if options.methods or options.history:
            bar = progress.add_task("model, moments, projectors", total=1)
            load = prepare(options, results)
            progress.advance(bar)
            compare(options, load, results, progress)
            grow_with_history(options, load, results, progress)
        if options.wide:
            grow_wide(options, results)
        write(results, options.out)
        plot(results, options.out / PICTURE)
    return results


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Random weights draw warnings; put back afterwards, as the caller may want theirs."""
    noisy = logging.getLogger(name)
    before = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(before)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 where the sides do not agree."""
    options = parse(arguments)
    console = Console()
    with _quiet("alphaedit_plugin"), _quiet("transformers"):
        results = run(options, console)
    for table in tables(results):
        console.print(table)
    for note in notes(results):
        console.print(f"- {note}", markup=False, style="dim")
    console.print(f"report: {options.out / 'speed.md'}", markup=False, soft_wrap=True)
    return 0 if results.agree else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
