"""How sure a gain is: percentile bootstrap over seeds, and over the edits and facts of each.

A resample draws seeds with replacement, and for each of them its requests and, group by group,
its untouched facts. Both sides of a gain are drawn alike, as they were asked the same questions
(Efron and Tibshirani 1993, §13.3; the two levels as in Davison and Hinkley 1997, §3.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alphaedit_plugin.experiments.studies import COLUMNS, Entry
from alphaedit_plugin.metrics.base import MetricValue
from alphaedit_plugin.metrics.evaluation import ASPECTS, Evaluation

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """What the null space gains in one column.

    Attributes:
        value: mean over seeds of projected minus plain.
        low: lower end of the interval.
        high: its upper end.
    """

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether 0 is outside."""
        return self.low > 0 or self.high < 0


def gains(plain: Entry, projected: Entry, resamples: int = RESAMPLES) -> dict[str, Gain]:
    """The gain in each main column that both have, over the seeds that both have.

    Args:
        plain: the base alone.
        projected: the same base in the null space.
        resamples: how many to draw.
    """
    seeds = sorted(set(plain.cells) & set(projected.cells))
    if not seeds:
        return {}
    rng = np.random.default_rng(SEED)
    both = [(plain.cells[s].final, projected.cells[s].final) for s in seeds]
    chosen = rng.integers(len(seeds), size=(resamples, len(seeds)))
    sums: dict[str, Values] = {}
    for place in range(len(seeds)):
        drawn = [_differences(*pair, rng, resamples) for pair in both]
        for column in set.intersection(*(set(one) for one in drawn)):
            table = np.stack([one[column] for one in drawn])
            picked = table[chosen[:, place], np.arange(resamples)]
            sums[column] = sums.get(column, 0) + picked
    return {
        name: _gain(column, both, sums[column] / len(seeds))
        for name, column in COLUMNS.items()
        if column in sums
    }


def _gain(column: str, both: list[tuple[Evaluation, Evaluation]], drawn: Values) -> Gain:
    """The observed gain, between the percentiles of those drawn."""
    found = [after.summary[column] - before.summary[column] for before, after in both]
    low, high = np.nanpercentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Gain(float(np.mean(found)), float(low), float(high))


def _differences(
    plain: Evaluation, projected: Evaluation, rng: np.random.Generator, resamples: int
) -> dict[str, Values]:
    """Per column, projected minus plain in each resample of one seed's requests and facts."""
    weights = _weights(plain, rng, resamples)
    before, after = _columns(plain, weights), _columns(projected, weights)
    return {column: after[column] - before[column] for column in before if column in after}


def _weights(evaluation: Evaluation, rng: np.random.Generator, resamples: int) -> dict[str, Values]:
    """Per unit ``(resamples, n)``: how often each request or fact was drawn."""
    sizes = {r.unit: len(r.totals) for r in evaluation.readings.values() if r.totals}
    return {
        unit: rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
        for unit, n in sorted(sizes.items())
    }


def _columns(evaluation: Evaluation, weights: Mapping[str, Values]) -> dict[str, Values]:
    """The main columns in every resample, as `Evaluation` has them."""
    drawn = {
        column: _mean(reading, weights[reading.unit])
        for column, reading in evaluation.readings.items()
        if reading.totals and len(reading.totals) == weights[reading.unit].shape[1]
    }
    found = {f"{a}.success": drawn[f"{a}.success"] for a in ASPECTS if f"{a}.success" in drawn}
    groups = [values for column, values in drawn.items() if column.startswith("retention.")]
    if groups:
        found["retention"] = np.mean(groups, axis=0)
    parts = np.stack(list(found.values()))
    with np.errstate(divide="ignore"):
        found["score"] = len(parts) / (1 / parts).sum(axis=0)  # 0 where a part is 0
    return found


def _mean(reading: MetricValue, weights: Values) -> Values:
    """The reading's mean in every resample; nan where no prompt was drawn."""
    with np.errstate(invalid="ignore"):
        mean: Values = (weights @ np.array(reading.totals)) / (weights @ np.array(reading.counts))
    return mean
