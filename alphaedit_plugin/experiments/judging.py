"""Grades of a judge for the texts of a cell: while it runs, or later, without the model."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from alphaedit_plugin.experiments.results import Cell
from alphaedit_plugin.metrics.base import MetricValue
from alphaedit_plugin.metrics.evaluation import Evaluation
from alphaedit_plugin.metrics.judge import Judge


def judged(cell: Cell, judge: Judge) -> Cell:
    """The cell with a verdict on each text, and columns ``generated.<protocol>.<kind>.judge``.

    Of the edited model only; texts without a grade are not counted.

    Raises:
        AlphaEditError: see `Judge.judged`.
    """
    texts = judge.judged(cell.texts)
    right: dict[str, list[float]] = {}
    for text in texts:
        if "judge" in text.verdicts:
            column = f"generated.{text.protocol}.{text.kind}.judge"
            right.setdefault(column, []).append(float(text.verdicts["judge"]))
    shares = {column: MetricValue(fmean(values)) for column, values in right.items()}
    last = cell.points[-1]
    final = Evaluation({**last.evaluation.readings, **shares})
    points = (*cell.points[:-1], replace(last, evaluation=final))
    return replace(cell, points=points, texts=texts)
