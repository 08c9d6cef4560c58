"""What grows with the number of edits so far: AlphaEdit's closed form, and the memory kept.

No search is made for the edits so far: the history is filled with random keys of the right shape
and size, which cost a solve what real ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import GPT2Config

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.nullspace.projector import Projector
from benchmarks.measure import Peak, Seconds, Stopwatch, held_bytes, peak_memory
from benchmarks.models import Shape, build
from benchmarks.ours import Seen, observed
from benchmarks.published import alphaedit_solve
from benchmarks.runs import apart
from benchmarks.workload import Words, Workload, build_tasks, null_cut

COMMIT = 100  # requests per earlier batch
SEARCH_STEPS = 2  # target searches do not depend on the history: make them short
KEY_SIZE = 0.3  # root mean square of an entry of a key, as in the random models


@dataclass(frozen=True)
class Growth:
    """One more AlphaEdit batch after ``history`` edits.

    Attributes:
        name: of the model's shape.
        d_in: dimension of the keys.
        layers: how many are edited.
        batch: requests of this batch.
        history: edits so far.
        ours: seconds of the whole batch; targets are left out.
        plain: seconds of the published closed forms and cache updates of all layers.
        peaks: bytes in use at most while a layer is solved, of plain and of ours.
        held: bytes kept between batches, of plain and of ours, see `grow`.
        apart: the worst layer's ``‖Δ − Δ'‖ / ‖Δ'‖``.
    """

    name: str
    d_in: int
    layers: int
    batch: int
    history: int
    ours: Seconds
    plain: float
    peaks: tuple[int | None, int | None]
    held: tuple[int, int]
    apart: float


def grow(
    name: str,
    load: Workload,
    dense: dict[int, Tensor],
    requests: Sequence[Request],
    history: int,
) -> Growth:
    """Time one AlphaEdit batch after so many edits; the weights are put back.

    A first request by itself takes what is done once, where a solver keeps something between
    batches. Kept between batches are, of plain, ``P``, ``Kp Kpᵀ`` and a copy of each weight; of
    ours, all that the session and the projectors hold.

    Args:
        name: of the model's shape.
        load: the workload.
        dense: ``P`` per layer, see `runs.dense_matrices`.
        requests: one for the first batch, and those of the timed one.
        history: edits before these.
    """
    lm, task = load.lm, load.tasks["alphaedit"]
    task = replace(task, search=replace(task.search, steps=SEARCH_STEPS))
    recipe, session = load.recipe(task), EditSession(lm, task.layers)
    watch = Stopwatch(lm.device)
    caches = _fill(load, session, history)
    with observed(Stopwatch(lm.device), recipe) as first:
        first.edit(session, requests[:1])
    for solved in first.solved:
        keys = solved.problem.keys
        caches[solved.problem.layer] += keys @ keys.T
    with observed(watch, recipe, peaks=True) as seen:
        seen.edit(session, requests[1:])
    kept = [*dense.values(), *caches.values(), *(lm.weight(i) for i in task.layers)]
    held = (sum(matrix.nbytes for matrix in kept), held_bytes(session, load.projectors))
    session.reset()
    seconds, peak, distance = _published(dense, caches, seen, task.ridge)
    return Growth(
        name,
        lm.weight(task.layers[0]).shape[1],
        len(task.layers),
        len(requests) - 1,
        history,
        replace(watch.seconds, targets=0.0),
        seconds,
        (peak, seen.solve_peak),
        held,
        distance,
    )


def wide(d_model: int, count: int, device: torch.device, seed: int) -> Workload:
    """Two blocks of GPT-2's kind, to solve one at ``d_in = 4 d_model`` without a large model."""
    ids = {"bos_token_id": 0, "eos_token_id": 0}

    def config() -> GPT2Config:
        return GPT2Config(
            vocab_size=500, n_positions=64, n_embd=d_model, n_layer=2, n_head=d_model // 32, **ids
        )

    shape = Shape(config, (0,), 0)
    lm = build(shape, torch.float32, device, seed)
    d_in = lm.weight(0).shape[1]
    cut = null_cut(d_in)
    generator = torch.Generator(device=device).manual_seed(seed)
    draw = torch.randn(d_in, int(cut.value), generator=generator, device=device)
    projector = Projector(torch.linalg.qr(draw)[0], torch.ones(d_in), cut)
    tasks = build_tasks(lm, shape, SEARCH_STEPS, seed)
    return Workload(lm, tasks, Words(lm, seed).requests(count), {}, {0: projector})


def _fill(load: Workload, session: EditSession, history: int) -> dict[int, Tensor]:
    """Commit batches of random keys, with deltas of zero; returns ``Kp Kpᵀ`` per layer."""
    lm = load.lm
    generator = torch.Generator(device=lm.device).manual_seed(history)
    shapes = {layer: lm.weight(layer).shape for layer in session.layers}
    sums = {i: torch.zeros(d, d, device=lm.device) for i, (_, d) in shapes.items()}
    for start in range(0, history, COMMIT):
        count = min(COMMIT, history - start)
        keys = {}
        with session.batch():
            for layer, (d_out, d_in) in shapes.items():
                draw = torch.randn(d_in, count, generator=generator, device=lm.device)
                keys[layer] = KEY_SIZE * draw
                left = torch.zeros(d_out, count, device=lm.device)
                session.write(layer, Delta(left, load.projectors[layer].apply(keys[layer])))
                sums[layer] += keys[layer] @ keys[layer].T
            session.commit((), keys)
    return sums


def _published(
    dense: dict[int, Tensor], caches: dict[int, Tensor], seen: Seen, ridge: float
) -> tuple[float, int | None, float]:
    """The published closed forms on what ours solved: seconds, peak bytes, how far apart."""
    device = next(iter(dense.values())).device
    watch, distances, peaks = Stopwatch(device), [], [Peak()]
    for solved in seen.solved:
        layer, keys, residual = solved.problem.layer, solved.problem.keys, solved.problem.residual
        with peak_memory(device) as peak, watch.phase("solve"):
            delta = alphaedit_solve(keys, residual, dense[layer], caches[layer], ridge)
            caches[layer] += keys @ keys.T
        peaks.append(peak)
        distances.append(apart(solved.delta.dense, delta))
    known = [peak.bytes for peak in peaks if peak.bytes is not None]
    return watch.seconds.solve, max(known, default=None), max(distances)
