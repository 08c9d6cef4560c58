"""How far an edit is from what its arithmetic must cost.

The command: ``python -m benchmarks.floor [OVERRIDES]``. Overrides are those of ``alphaedit edit``:
``model=smollm2-135m data=atlas base=memit``. The floor of a target search is the floating-point
operations of the tokens and blocks that must run, each sentence at its own length, over the rate
that a large matrix product reaches in the same run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from pydantic.dataclasses import dataclass as validated_dataclass
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from alphaedit_plugin.common.validation import STRICT
from alphaedit_plugin.config.build import cpu_threads, load
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.data.selection import read_data
from alphaedit_plugin.editing.encoding import EncodedRequest, encode_fitting
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.targets import optimise_targets
from alphaedit_plugin.models import batching
from alphaedit_plugin.models.activations import Site
from alphaedit_plugin.models.editable import EditableModel
from benchmarks.measure import PHASES, Stopwatch
from benchmarks.ours import observed

SIDE = 2048  # of the matrix product
NO_PADDING = {"cpu": 0, "accelerator": 0}  # `PASS_TOKENS`: only sentences of one length together


@validated_dataclass(config=STRICT)
class FloorSettings(EditorConfig):
    """What the command reads.

    Attributes:
        batches: numbers of requests.
        repeat: runs of each; the fastest counts.
    """

    batches: list[int] = field(default_factory=lambda: [1, 10, 100])
    repeat: int = 1


@dataclass(frozen=True)
class Measured:
    """A batch of edits.

    Attributes:
        batch: how many.
        seconds: per edit, by phase.
        executed: floating-point operations of the search, per edit.
        needed: those of the tokens that must run.
        rate: operations per second of a large product.
    """

    batch: int
    seconds: dict[str, float]
    executed: float
    needed: float
    rate: float

    @property
    def floor(self) -> float:
        """Seconds per edit that the search must take."""
        return self.needed / self.rate

    def row(self) -> str:
        """In the table."""
        times = " | ".join(f"{self.seconds[phase]:.3f}" for phase in PHASES)
        multiple = self.seconds["targets"] / self.floor
        padding = self.executed / self.needed
        return (
            f"| {self.batch} | {times} | {self.needed / 1e9:.1f} | {padding:.2f} | "
            f"{self.floor:.3f} | {multiple:.1f}× |"
        )


HEAD = (
    f"| batch | {' | '.join(f'{phase}, s' for phase in PHASES)} | GFLOP needed | executed | "
    "floor, s | search over floor |\n|" + " --: |" * 9
)


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of a square matrix product, the best of ten."""
    a = torch.randn(SIDE, SIDE, dtype=dtype, device=device)
    best = min(_timed(lambda: a @ a, device) for _ in range(10))
    return float(2 * SIDE**3 / best)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def operations(lm: EditableModel, recipe: Recipe, batch: Sequence[EncodedRequest]) -> int:
    """Floating-point operations of a target search."""
    site = Site(recipe.layers[-1], recipe.method.target)
    with FlopCounterMode(display=False) as counter:
        optimise_targets(lm, batch, site, recipe.targets)
    return int(counter.get_total_flops())


def measure(
    lm: EditableModel, recipe: Recipe, batch: Sequence[EncodedRequest], repeat: int
) -> Measured:
    """Edit the batch as the engine does, and undo it."""
    requests = [one.request for one in batch]
    runs = []
    for _ in range(repeat):
        session, watch = EditSession(lm, recipe.layers), Stopwatch(lm.device)
        with observed(watch, recipe) as seen:
            seen.edit(session, requests)
        session.reset()
        runs.append(watch.seconds.over(len(batch)))
    fastest = min(runs, key=lambda seconds: seconds.total)
    executed = operations(lm, recipe, batch)
    with patch.object(batching, "PASS_TOKENS", NO_PADDING):
        needed = operations(lm, recipe, batch)
    halved = recipe.targets.mixed_precision
    rate = product_rate(torch.bfloat16 if halved else lm.parameter(0).dtype, lm.device)
    times = {phase: getattr(fastest, phase) for phase in PHASES}
    return Measured(len(batch), times, executed / len(batch), needed / len(batch), rate)


def main(words: Sequence[str], console: Console) -> None:
    """Measure every batch size, and print a table."""
    config = load_config(words, FloorSettings)
    with cpu_threads(config.model.threads):
        data = read_data(config)
        lm, recipe = load(config, lambda lm: None)
        _, encoded = encode_fitting(lm, recipe, data, config.data)
        console.print(HEAD)
        for size in config.batches:
            console.print(measure(lm, recipe, encoded[:size], config.repeat).row(), soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:], Console(width=160))
