"""Cells made up on the spot, with every part that a real one has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alphaedit_plugin.experiments.results import Cell, LayerReport, Point, Setting, write_cell
from alphaedit_plugin.metrics.base import MetricValue, means
from alphaedit_plugin.metrics.evaluation import Evaluation
from alphaedit_plugin.metrics.generated import GeneratedText
from alphaedit_plugin.metrics.matching import verdicts
from alphaedit_plugin.metrics.shift import Shift

EDITS = 30


def evaluation(edits: int, chance: float, rng: random.Random, **more: float) -> Evaluation:
    """As many requests; each is right with the given chance."""

    def hits(count: int) -> list[list[float]]:
        return [[float(rng.random() < chance)] for _ in range(count)]

    near = [[float(rng.random() < chance) for _ in range(n % 3)] for n in range(edits)]
    columns = {
        "efficacy.success": hits(edits),
        "efficacy.accuracy": hits(edits),
        "specificity.success": near,
        "specificity.accuracy": near,
        "rewrite_acc": hits(edits),
        "neighbourhood_acc": near,
    }
    retention = {f"retention.{name}": hits(size) for name, size in (("seen", 40), ("unseen", 25))}
    values = means(columns)
    for column, groups in retention.items():
        values |= means({column: groups}, unit=column)
    return Evaluation(values | {name: MetricValue(value) for name, value in more.items()})


def cell(
    base: str,
    null_space: bool,
    chance: float,
    seed: int = 0,
    data: str = "made_up",
    edits: int = EDITS,
    **settings: object,
) -> Cell:
    """A cell whose edits hold with the given chance."""
    rng = random.Random(f"{base} {null_space} {seed}")
    points = [
        Point(n, evaluation(n, chance, rng, perplexity=20 / chance), {3: n / 100})
        for n in (edits // 3 or 1, 2 * edits // 3 or 1, edits)
    ]
    brief = [replace(point, evaluation=point.evaluation.brief()) for point in points[:-1]]
    states = tuple((rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(12))
    moved = tuple((x + 0.1, y) for x, y in states)
    return Cell(
        setting=Setting("tiny & co", data, "target alt", seed, edits, 10, f"requests {seed}"),
        base=base,
        null_space=null_space,
        settings={"batch_size": 10, **settings},
        before=evaluation(edits, 0.1, random.Random(seed)),
        points=(*brief, points[-1]),
        layers={3: LayerReport(0.3, 1e-7 if null_space else 1e-3, 1e-8, 50, 64)},
        seconds=1.5,
        shift=Shift(4, 0.25, 0.5, states, moved),
        abilities={n: {"sst2.acc": chance - n / 1000} for n in (0, edits)},
        command=f"alphaedit compare seed={seed}",
        identity="made up",
        texts=texts(edits, chance, rng),
    )


def texts(edits: int, chance: float, rng: random.Random) -> tuple[GeneratedText, ...]:
    """Of edits that are right with the given chance."""
    said = [rng.choice(["Rome.", "Paris, | I * think"]) for _ in range(edits)]
    return tuple(
        GeneratedText(
            "bare", "efficacy", f"The capital of <b>{n}</b> is", "Rome", (), "Oslo.", after, True,
            verdicts(after, ["Rome"]),
        )
        for n, after in enumerate(said)
    )  # fmt: skip


def seeds(count: int = 3, data: str = "made_up") -> list[Cell]:
    """Cells of MEMIT and RECT, plain and projected; MEMIT gains much, RECT nothing."""
    chances = {("memit", False): 0.5, ("memit", True): 0.95, ("rect", False): 0.7}
    return [
        cell(base, side, chances.get((base, side), 0.7), seed, data)
        for seed in range(count)
        for base in ("memit", "rect")
        for side in (False, True)
    ]


def write(folder: Path, cells: Sequence[Cell]) -> Path:
    """As ``alphaedit compare`` writes them: a folder for each."""
    for number, one in enumerate(cells):
        (folder / str(number)).mkdir(parents=True)
        write_cell(one, folder / str(number))
    return folder
