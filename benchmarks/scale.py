"""AlphaEdit's solve after up to 20,000 earlier keys of one layer, on random keys alone.

``python -m benchmarks.scale [--shape 3072 768 --rank 921] [--history 0 1000 10000 20000]``: seconds
and bytes of the system that is kept, beside those of one with an equation per key and of the
published dense matrices.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from alphaedit_plugin.config.build import cpu_threads
from alphaedit_plugin.methods.dual import DualSystem
from alphaedit_plugin.methods.least_squares import least_squares
from alphaedit_plugin.methods.past_keys import PastKeys
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from benchmarks.growth import COMMIT, KEY_SIZE
from benchmarks.measure import held_bytes

RIDGE = 10.0
BATCHES = (1, 100)
STEPS = 8  # batches in a row, each of which becomes history
HEADINGS = ("earlier keys", "batch", "seconds", "worst", "per key, s", "MB", "per key, MB",
            "published, MB", "summed again, s")  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Solves of one layer after ``history`` keys; bytes are those of system and projector.

    Attributes:
        history: earlier keys.
        batch: requests of each batch.
        seconds: of a solve, on average.
        worst: of the slowest, which may have factored a matrix of all dimensions.
        dual: of a solve with an equation per key; ``None`` where that was too many.
        held: bytes.
        dual_held: bytes with an equation per key.
        published: bytes of ``P`` and ``Kp Kpᵀ``.
        rebuilt: seconds to make the system from nothing, as after an undo of an early edit.
    """

    history: int
    batch: int
    seconds: float
    worst: float
    dual: float | None
    held: int
    dual_held: int
    published: int
    rebuilt: float


def measure(
    shape: tuple[int, int], rank: int, history: int, batch: int, most_dual: int, seed: int = 0
) -> Scale:
    """Time one layer.

    Args:
        shape: ``d_in``, ``d_out``.
        rank: of ``U``.
        history: earlier keys.
        batch: requests of each batch.
        most_dual: earlier keys up to which the system with an equation per key is timed.
        seed: of all that is drawn.
    """
    d_in, d_out = shape
    generator = torch.Generator().manual_seed(seed)
    draws = _draws(d_in, generator)
    basis = torch.linalg.qr(torch.randn(d_in, rank, generator=generator))[0]
    projector = Projector(basis, torch.ones(d_in), Cut(CutRule.rank, rank))
    residual = torch.randn(d_out, batch, generator=generator)
    blocks = [next(draws)[:, : min(COMMIT, history - n)] for n in range(0, history, COMMIT)]
    past = PastKeys(tuple(blocks))

    def solve() -> float:
        keys, start = next(draws)[:, :batch], time.perf_counter()
        least_squares(projector, RIDGE, past, keys, residual)
        past.blocks = (*past.blocks, keys)
        return time.perf_counter() - start

    rebuilt = solve()
    times = [solve() for _ in range(STEPS)]
    system = past.system(projector, RIDGE)
    held = held_bytes(projector, system) - held_bytes(*past.blocks)
    count = past.count
    dual = _dual(projector, blocks, next(draws)[:, :batch]) if history <= most_dual else None
    dual_held = basis.nbytes + 4 * d_in * count + 8 * count**2
    mean = sum(times) / len(times)
    return Scale(
        history, batch, mean, max(times), dual, held, dual_held, 8 * d_in**2, rebuilt
    )  # fmt: skip


def _draws(d_in: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield KEY_SIZE * torch.randn(d_in, COMMIT, generator=generator)


def _dual(projector: Projector, blocks: Sequence[Tensor], keys: Tensor) -> float:
    """Seconds of one solve by a system with an equation per key that has grown already."""
    system = DualSystem(projector, RIDGE)
    system.hold(blocks)
    start = time.perf_counter()
    system.hold([*blocks, keys])
    projector.adjoint(system.last_columns(keys.shape[1]).to(keys))
    return time.perf_counter() - start


def table(rows: Sequence[Scale]) -> Table:
    """What was measured, a row each."""
    made = Table(title="AlphaEdit's solve of one layer, over earlier keys")
    for heading in HEADINGS:
        made.add_column(heading, justify="right")
    for row in rows:
        sizes = (f"{size / 1e6:,.1f}" for size in (row.held, row.dual_held, row.published))
        dual = "" if row.dual is None else f"{row.dual:.4f}"
        made.add_row(
            f"{row.history:,}", str(row.batch), f"{row.seconds:.4f}", f"{row.worst:.4f}", dual,
            *sizes, f"{row.rebuilt:.3f}",
        )  # fmt: skip
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser("python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--shape", nargs=2, type=int, default=(3072, 768), help="d_in and d_out")
    parser.add_argument("--rank", type=int, default=921, help="of U")
    parser.add_argument("--history", nargs="+", type=int, default=[0, 1000, 3000, 10000, 20000])
    parser.add_argument("--most-dual", type=int, default=3000,
                        help="earlier keys up to which an equation per key is timed")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2, help="CPU threads at most")
    options = parser.parse_args(arguments)
    with cpu_threads(options.threads):
        rows = [
            measure(tuple(options.shape), options.rank, history, batch, options.most_dual)
            for history in options.history
            for batch in BATCHES
        ]
    Console(width=120).print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
