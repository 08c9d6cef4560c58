"""How sure a gain is: percentile bootstrap over seeds, and over the edits and facts of each.

A resample draws seeds with replacement, and for each of them its requests and, group by group, its
untouched facts. Both sides of a gain are resampled alike, as they were asked the same questions
(Efron and Tibshirani 1993, §13.3; the two levels as in Davison and Hinkley 1997, §3.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alphaedit_plugin.experiments.studies import COLUMNS, Row
from alphaedit_plugin.metrics.evaluation import ASPECTS, Evaluation

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """What the null space gains in one column: projected minus plain, and its interval."""

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether 0 is outside."""
        return self.low > 0 or self.high < 0


def gains(plain: Row, projected: Row, resamples: int = RESAMPLES) -> dict[str, Gain]:
    """The gain in each main column that both rows have, over the seeds that both have."""
    seeds = sorted(set(plain.cells) & set(projected.cells))
    if not seeds:
        return {}
    rng = np.random.default_rng(SEED)
    pairs = [(plain.cells[s].final, projected.cells[s].final) for s in seeds]
    chosen = rng.integers(len(seeds), size=(resamples, len(seeds)))
    sums: dict[str, Values] = {}
    for draw in chosen.T:  # one seed of every resample
        per_seed = [_differences(*pair, rng, resamples) for pair in pairs]
        for column in set.intersection(*map(set, per_seed)):
            table = np.stack([differences[column] for differences in per_seed])
            sums[column] = sums.get(column, 0) + table[draw, np.arange(resamples)]
    return {
        name: _gain(column, pairs, sums[column] / len(seeds))
        for name, column in COLUMNS.items()
        if column in sums
    }


def _gain(column: str, pairs: list[tuple[Evaluation, Evaluation]], resampled: Values) -> Gain:
    """The observed gain, between the percentiles of the resampled ones."""
    observed = [after.summary[column] - before.summary[column] for before, after in pairs]
    low, high = np.nanpercentile(resampled, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Gain(float(np.mean(observed)), float(low), float(high))


def _differences(
    plain: Evaluation, projected: Evaluation, rng: np.random.Generator, resamples: int
) -> dict[str, Values]:
    """Per column, projected minus plain in each resample of one seed's requests and facts."""
    sizes = {r.unit: len(r.totals) for r in plain.readings.values() if r.totals}
    weights = {  # how often each request or fact was drawn, (resamples, n)
        unit: rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
        for unit, n in sorted(sizes.items())
    }
    before, after = _columns(plain, weights), _columns(projected, weights)
    return {column: after[column] - before[column] for column in before if column in after}


def _columns(evaluation: Evaluation, weights: Mapping[str, Values]) -> dict[str, Values]:
    """The main columns in every resample, as `Evaluation` defines them."""
    with np.errstate(invalid="ignore"):  # nan where no prompt was drawn
        means = {
            column: (weights[r.unit] @ np.array(r.totals)) / (weights[r.unit] @ np.array(r.counts))
            for column, r in evaluation.readings.items()
            if r.totals and len(r.totals) == weights[r.unit].shape[1]
        }
    parts = {f"{a}.success": means[f"{a}.success"] for a in ASPECTS if f"{a}.success" in means}
    groups = [values for column, values in means.items() if column.startswith("retention.")]
    if groups:
        parts["retention"] = np.mean(groups, axis=0)
    values = np.stack(list(parts.values()))
    with np.errstate(divide="ignore"):
        parts["score"] = len(values) / (1 / values).sum(axis=0)  # 0 where a part is 0
    return parts
