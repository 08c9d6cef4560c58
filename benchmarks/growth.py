"""What grows with the number of edits so far, and the closed form alone at a large size.

Neither makes the searches that so many edits would need: the history is filled with random keys
of the right shape and size, which cost a solve what real ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alphaedit_plugin import engine
from alphaedit_plugin.delta import Delta
from alphaedit_plugin.methods import LayerProblem, Memit, Projected
from alphaedit_plugin.projector import Cut, CutRule, Projector
from alphaedit_plugin.request import Request
from alphaedit_plugin.session import EditSession
from benchmarks.measure import Seconds, Stopwatch, held_bytes, peak_memory
from benchmarks.ours import Seen, observed
from benchmarks.plain import alphaedit_solve
from benchmarks.runs import apart
from benchmarks.workload import RIDGE, Task, Workload, null_cut

COMMIT = 100  # requests per earlier batch
SEARCH_STEPS = 2  # target searches do not depend on the history: make them short


@dataclass(frozen=True)
class Growth:
    """One more AlphaEdit batch after ``history`` edits.

    Attributes:
        history: edits so far.
        batch: requests of this batch.
        ours: seconds of the whole batch; targets are left out.
        plain_solve: seconds of the published closed forms and cache updates of the batch.
        ours_held: bytes that the session and projectors hold, pristine weights included.
        plain_held: bytes of ``P`` and ``Kp Kpᵀ``, and of copies of the weights.
        apart: the worst layer's ``‖Δ − Δ'‖ / ‖Δ'‖``.
    """

    history: int
    batch: int
    ours: Seconds
    plain_solve: float
    ours_held: int
    plain_held: int
    apart: float


def grow(
    load: Workload, dense: dict[int, Tensor], requests: Sequence[Request], history: int
) -> Growth:
    """Time one AlphaEdit batch after so many edits; the weights are put back.

    A batch before it takes what is done once, where a solver keeps something between batches.
    """
    view = load.view
    task = load.tasks["alphaedit"]
    task = replace(task, search=replace(task.search, steps=SEARCH_STEPS))
    session = EditSession(view, task.layers)
    generator = torch.Generator(device=view.device).manual_seed(history)
    filled = _fill(load, session, task, history, generator)
    recipe, watch = load.recipe(task), Stopwatch(view.device)
    half = len(requests) // 2
    engine.apply_batch(view, session, recipe, requests[:half])
    past = [session.journal[-1].past_keys[layer] for layer in task.layers]
    with observed(watch, type(recipe.method)) as seen:
        engine.apply_batch(view, session, recipe, requests[half:])
    caches = {
        layer: filled[layer] + keys @ keys.T for layer, keys in zip(task.layers, past, strict=True)
    }
    ours_held = held_bytes(session, load.projectors)
    session.reset()
    seconds, distance = _published(load, dense, caches, seen)
    matrices = [*dense.values(), *caches.values(), *(view.weight(i) for i in task.layers)]
    return Growth(
        history, len(requests) - half, replace(watch.seconds, targets=0.0), seconds, ours_held,
        sum(matrix.nbytes for matrix in matrices), distance,
    )  # fmt: skip


def _fill(
    load: Workload, session: EditSession, task: Task, history: int, generator: torch.Generator
) -> dict[int, Tensor]:
    """Commit batches of random keys and of deltas too small to matter; ``Kp Kpᵀ`` per layer."""
    view = load.view
    sums = {}
    for layer in task.layers:
        d_in = view.weight(layer).shape[1]
        sums[layer] = torch.zeros(d_in, d_in, device=view.device)
    for start in range(0, history, COMMIT):
        count = min(COMMIT, history - start)
        keys = {}
        with session.batch():
            for layer in task.layers:
                d_out, d_in = view.weight(layer).shape
                scale = (load.moments[layer].mean.diagonal().mean() ** 0.5).item()
                draw = torch.randn(d_in, count, generator=generator, device=view.device)
                keys[layer] = scale * draw
                left = torch.zeros(d_out, count, device=view.device)
                session.write(layer, Delta(left, load.projectors[layer].apply(keys[layer])))
                sums[layer] += keys[layer] @ keys[layer].T
            session.commit((), keys)
    return sums


def _published(
    load: Workload, dense: dict[int, Tensor], caches: dict[int, Tensor], seen: Seen
) -> tuple[float, float]:
    """Seconds of the published closed forms on what ours solved, and how far ours is from them."""
    watch, distances = Stopwatch(load.view.device), []
    for solved in seen.solved:
        layer, keys = solved.problem.layer, solved.problem.keys
        with watch.phase("solve"):
            delta = alphaedit_solve(
                keys, solved.problem.residual, dense[layer], caches[layer], RIDGE
            )
            caches[layer] += keys @ keys.T
        distances.append(apart(solved.delta.dense, delta))
    return watch.seconds.solve, max(distances)


@dataclass(frozen=True)
class ClosedForm:
    """AlphaEdit's closed form alone.

    Attributes:
        d_in: dimension of the keys.
        batch: requests.
        history: earlier keys.
        seconds: of plain and of ours.
        peaks: bytes in use at most, of plain and of ours; ``None`` where not measured.
        held: bytes kept between batches, of plain and of ours.
        apart: ``‖Δ − Δ'‖ / ‖Δ'‖``.
    """

    d_in: int
    batch: int
    history: int
    seconds: tuple[float, float]
    peaks: tuple[int | None, int | None]
    held: tuple[int, int]
    apart: float


def closed_form(d_in: int, batch: int, history: int, device: torch.device, seed: int) -> ClosedForm:
    """Time it on random keys, ours through the method that the engine calls."""
    generator = torch.Generator(device=device).manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    rank = int(null_cut(d_in).value)
    basis = torch.linalg.qr(draw(d_in, rank))[0]
    projector = Projector(basis, torch.ones(d_in, device=device), Cut(CutRule.rank, rank))
    method = Projected(Memit(), {0: projector}, ridge=RIDGE)
    d_out = d_in // 4
    keys, past, residual = draw(d_in, batch), draw(d_in, history), draw(d_out, batch)
    problem = LayerProblem(0, keys, keys, residual, draw(d_out, d_in), None, past)
    ours, plain = Stopwatch(device), Stopwatch(device)
    with peak_memory(device) as ours_peak, ours.phase("solve"):
        delta = method.delta(problem)
    projection, cache = projector.apply(torch.eye(d_in, device=device)), past @ past.T
    with peak_memory(device) as plain_peak, plain.phase("solve"):
        published = alphaedit_solve(keys, residual, projection, cache, RIDGE)
    return ClosedForm(
        d_in, batch, history, (plain.seconds.solve, ours.seconds.solve),
        (plain_peak.bytes, ours_peak.bytes),
        (projection.nbytes + cache.nbytes, basis.nbytes + past.nbytes),
        apart(delta.dense, published),
    )  # fmt: skip
