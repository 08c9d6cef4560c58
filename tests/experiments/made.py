"""Runs made up on the spot, with every part that a real one has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from alphaedit_plugin.experiments.cells import Cell, LayerReport, Point
from alphaedit_plugin.experiments.results import METRICS, Run, Setting, dumps
from alphaedit_plugin.metrics.base import MetricValue, means
from alphaedit_plugin.metrics.evaluation import Evaluation
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
    found = means(columns)
    for column, values in retention.items():
        found |= means({column: values}, unit=column)
    return Evaluation(found | {name: MetricValue(value) for name, value in more.items()})


def cell(base: str, null_space: bool, chance: float, seed: int = 0, **settings: object) -> Cell:
    """A cell whose edits hold with the given chance."""
    rng = random.Random(f"{base} {null_space} {seed}")
    points = tuple(
        Point(edits, evaluation(edits, chance, rng, perplexity=20 / chance), {3: edits / 100})
        for edits in (EDITS // 3, 2 * EDITS // 3, EDITS)
    )
    states = tuple((rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(12))
    moved = tuple((x + 0.1, y) for x, y in states)
    layers = {3: LayerReport(0.3, 1e-7 if null_space else 1e-3, 1e-8, 50, 64)}
    shift = Shift(4, 0.25, 0.5, states, moved)
    abilities = {edits: {"sst2.acc": chance - edits / 1000} for edits in (0, EDITS)}
    return Cell(
        base=base,
        null_space=null_space,
        settings={"batch_size": 10, **settings},
        points=points,
        layers=layers,
        seconds=1.5,
        shift=shift,
        abilities=abilities,
    )


def run(cells: Sequence[Cell], seed: int = 0, data: str = "made_up", edits: int = EDITS) -> Run:
    """A run of these cells."""
    setting = Setting("tiny & co", data, "target alt", seed, edits, 10)
    before = evaluation(edits, 0.1, random.Random(seed))
    return Run(setting, before, tuple(cells), f"alphaedit compare seed={seed}")


def seeds(count: int = 3, data: str = "made_up") -> list[Run]:
    """Runs of MEMIT and RECT, plain and projected; MEMIT gains much, RECT nothing."""
    chances = {("memit", False): 0.5, ("memit", True): 0.95, ("rect", False): 0.7}
    return [
        run(
            [
                cell(base, side, chances.get((base, side), 0.7), seed)
                for base in ("memit", "rect")
                for side in (False, True)
            ],
            seed,
            data,
        )
        for seed in range(count)
    ]


def write(folder: Path, made: Run) -> Path:
    """As ``alphaedit compare`` writes it."""
    folder.mkdir(parents=True)
    (folder / METRICS).write_text(dumps(made), encoding="utf-8")
    return folder
