"""One batch of edits on each side: seconds by phase, peak memory, and whether the sides agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel
from benchmarks.measure import Seconds, Stopwatch, peak_memory
from benchmarks.ours import Seen, observed
from benchmarks.plain import Outcome, PlainAlphaEdit, PlainEditor, PlainMemit, PlainRome
from benchmarks.published import alphaedit_solve, memit_solve, rome_solve
from benchmarks.workload import Task, Workload

TOLERANCE = {"targets": 1e-3, "deltas": 1e-2}


@dataclass(frozen=True)
class Row:
    """What one side took for one batch.

    Attributes:
        method: one of `workload.METHODS`.
        side: ``plain``, ``ours`` or ``host``.
        batch: requests edited together.
        seconds: per edit.
        peak: bytes in use at most, beyond those at the start; ``None`` where not measured.
        measured: edits that targets and keys were timed on; the closed forms are always timed on
            the whole batch.
    """

    method: str
    side: str
    batch: int
    seconds: Seconds
    peak: int | None
    measured: int


@dataclass(frozen=True)
class Check:
    """How far two sides are apart, as ``‖a − b‖ / ‖b‖``.

    Attributes:
        method: one of `workload.METHODS`.
        sides: which, e.g. ``plain, ours``.
        batch: requests edited together.
        targets: of the worst target value; ``None`` where a side has none of its own.
        deltas: of the worst layer's delta.
        holds: within `TOLERANCE`; ``None`` in half precision, where roundings differ.
    """

    method: str
    sides: str
    batch: int
    targets: float | None
    deltas: float
    holds: bool | None


def apart(a: Tensor, b: Tensor) -> float:
    """``‖a − b‖ / ‖b‖``, in float64."""
    reference = b.double()
    return ((a.double() - reference).norm() / reference.norm().clamp_min(1e-300)).item()


def check(
    lm: EditableModel, task: Task, sides: str, batch: int, pairs: tuple[Outcome, Outcome]
) -> Check:
    """Compare all targets, where both sides tell them, and all deltas."""
    first, second = pairs
    targets = None
    if first.targets is not None and second.targets is not None:
        columns = zip(first.targets.unbind(1), second.targets.unbind(1), strict=True)
        targets = max(apart(a, b) for a, b in columns)
    deltas = max(apart(first.deltas[layer], second.deltas[layer]) for layer in task.layers)
    return Check(task.method, sides, batch, targets, deltas, holds(lm, targets, deltas))


def holds(lm: EditableModel, targets: float | None, deltas: float) -> bool | None:
    """Whether distances are within `TOLERANCE`."""
    if lm.model.dtype is not torch.float32:
        return None
    return deltas <= TOLERANCE["deltas"] and (targets or 0.0) <= TOLERANCE["targets"]


def run_ours(load: Workload, task: Task, requests: Sequence[Request]) -> tuple[Row, Outcome, Seen]:
    """One batch through our engine; the weights are put back."""
    lm, recipe = load.lm, load.recipe(task)
    session, watch = EditSession(lm, task.layers), Stopwatch(lm.device)
    with observed(watch, recipe) as seen, peak_memory(lm.device) as peak:
        seen.edit(session, requests)
    deltas = {layer: session.accumulated(layer).clone() for layer in task.layers}
    session.reset()
    count = len(requests)
    row = Row(task.method, "ours", count, watch.seconds.over(count), peak.bytes, count)
    return row, Outcome(torch.cat(seen.targets, dim=1), deltas), seen


def run_plain(
    load: Workload, dense: dict[int, Tensor], task: Task, requests: Sequence[Request]
) -> tuple[Row, Outcome]:
    """One batch through the plain implementation; the weights are put back.

    Args:
        load: the workload.
        dense: see `dense_matrices`.
        task: what to run.
        requests: the batch.
    """
    lm, watch = load.lm, Stopwatch(load.lm.device)
    editor = _plain_editor(lm, dense, task, watch)
    with put_back(lm, task.layers), peak_memory(lm.device) as peak:
        outcome = editor.edit(requests)
    count = len(requests)
    row = Row(task.method, "plain", count, watch.seconds.over(count), peak.bytes, count)
    return row, outcome


def dense_matrices(load: Workload, task: Task) -> dict[int, Tensor]:
    """What the published code keeps per layer: ``C⁻¹`` (ROME), ``C`` (MEMIT) or ``P`` (AlphaEdit).

    All ``(d_in, d_in)`` float32, on the model's device.
    """
    device = load.lm.device
    if task.method == "alphaedit":
        bases = {layer: load.projectors[layer].basis.to(device) for layer in task.layers}
        return {i: torch.eye(len(u), device=device) - u @ u.T for i, u in bases.items()}
    means = {layer: load.moments[layer].mean for layer in task.layers}
    if task.method == "rome":
        means = {layer: torch.linalg.inv(mean) for layer, mean in means.items()}
    return {layer: mean.float().to(device) for layer, mean in means.items()}


def closed_forms(
    load: Workload, dense: dict[int, Tensor], task: Task, seen: Seen
) -> tuple[float, Check]:
    """The published closed forms, on the very problems that our engine solved.

    Returns:
        Seconds, and how far our deltas are from these.
    """
    watch, distances = Stopwatch(load.lm.device), []
    caches = {layer: torch.zeros_like(matrix) for layer, matrix in dense.items()}
    for solved in seen.solved:
        problem, layer = solved.problem, solved.problem.layer
        with watch.phase("solve"):
            keys, residual, matrix = problem.keys, problem.residual, dense[layer]
            if task.method == "alphaedit":
                delta = alphaedit_solve(keys, residual, matrix, caches[layer], task.ridge)
                caches[layer] += keys @ keys.T
            elif task.method == "memit":
                delta = memit_solve(keys, residual, matrix, task.moment_weight)
            else:
                delta = rome_solve(keys, problem.subject_keys, residual, matrix)
        distances.append(apart(solved.delta.dense, delta))
    count = sum(found.shape[1] for found in seen.targets)
    worst = max(distances)
    verdict = Check(task.method, "plain, ours", count, None, worst, holds(load.lm, None, worst))
    return watch.seconds.solve, verdict


@contextmanager
def put_back(lm: EditableModel, layers: Sequence[int]) -> Iterator[None]:
    """The weights of ``layers`` are as before on exit."""
    before = {layer: lm.weight(layer).clone() for layer in layers}
    try:
        yield
    finally:
        for layer, weight in before.items():
            lm.weight(layer).copy_(weight)


def _plain_editor(
    lm: EditableModel, dense: dict[int, Tensor], task: Task, watch: Stopwatch
) -> PlainEditor:
    if task.method == "alphaedit":
        return PlainAlphaEdit(lm, task, watch, dense)
    if task.method == "memit":
        return PlainMemit(lm, task, watch, dense)
    return PlainRome(lm, task, watch, dense[task.layers[0]])
