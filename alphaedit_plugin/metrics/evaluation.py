"""A model's evaluation: every metric's readings, and the score that sums them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType

from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.metrics.base import METRICS, Exam, Pair, Reading, Readings
from alphaedit_plugin.models.editable import EditableModel

ASPECTS = ("efficacy", "generalisation", "specificity")


@dataclass(frozen=True)
class Measure:
    """One aspect of a model, over all prompts that ask for it; see `metrics.aspects.efficacy`."""

    success: float
    accuracy: float
    magnitude: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A model after some edits.

    Attributes:
        readings: by column, ``"efficacy.success"``, ``"retention.seen"``, ``"fluency"``, …;
            what the data does not have is not there.
        outputs: what the unedited model predicts behind locality prompts, for `evaluate` after
            edits; empty after them.
    """

    readings: Readings
    outputs: Mapping[Pair, tuple[int, ...]] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    @property
    def efficacy(self) -> Measure:
        """Of the edited prompts."""
        found = self._measure("efficacy")
        assert found is not None  # every request has a prompt
        return found

    @property
    def generalisation(self) -> Measure | None:
        """Of their rephrasings."""
        return self._measure("generalisation")

    @property
    def specificity(self) -> Measure | None:
        """Of neighbourhood prompts."""
        return self._measure("specificity")

    @property
    def retention(self) -> dict[str, float]:
        """Named groups of untouched facts: share still answered right."""
        return {
            column.removeprefix("retention."): reading.value
            for column, reading in self.readings.items()
            if column.startswith("retention.")
        }

    @property
    def retained(self) -> float | None:
        """Mean over the groups of retention."""
        return fmean(self.retention.values()) if self.retention else None

    @property
    def score(self) -> float:
        """Harmonic mean of efficacy, generalisation and specificity (success), and retention.

        ROME's score (Meng et al. 2022, §3.3), with retention as a fourth part. What the data does
        not have is left out.
        """
        measures = [self._measure(aspect) for aspect in ASPECTS]
        parts = [measure.success for measure in measures if measure is not None]
        parts += [self.retained] if self.retained is not None else []
        return harmonic_mean(parts)

    @property
    def summary(self) -> dict[str, float]:
        """Every column's number, and ``retention`` and ``score``."""
        values = {column: reading.value for column, reading in self.readings.items()}
        retained = {} if self.retained is None else {"retention": self.retained}
        return values | retained | {"score": self.score}

    def brief(self) -> Evaluation:
        """Without the parts that columns are made of, but for which edits hold."""
        return Evaluation(
            {
                column: reading if column in SURVIVAL.values() else Reading(reading.value)
                for column, reading in self.readings.items()
            }
        )

    def _measure(self, aspect: str) -> Measure | None:
        if f"{aspect}.success" not in self.readings:
            return None
        size = self.readings.get(f"{aspect}.magnitude")
        return Measure(
            self.readings[f"{aspect}.success"].value,
            self.readings[f"{aspect}.accuracy"].value,
            None if size is None else size.value,
        )


# What survival is told by: for each edit so far, whether it still holds.
SURVIVAL: Mapping[str, str] = MappingProxyType(
    {"success": "efficacy.success", "accuracy": "efficacy.accuracy"}
)


def harmonic_mean(values: Sequence[float]) -> float:
    """``n / Σ 1/x``; 0 where any value is 0."""
    return len(values) / sum(1 / v for v in values) if all(v > 0 for v in values) else 0.0


def evaluate(
    lm: EditableModel,
    requests: Sequence[Request],
    retention: Mapping[str, Probe],
    *,
    references: Sequence[str] = (),
    texts: Sequence[str] = (),
    before: Evaluation | None = None,
    metrics: Sequence[str] | None = None,
    costly: bool = True,
) -> Evaluation:
    """Evaluate the model as it is now.

    Args:
        lm: the model.
        requests: the edits made so far.
        retention: untouched facts.
        references: the texts that consistency's document frequencies are of.
        texts: held-out text, for perplexity.
        before: the unedited model's evaluation on the same requests or more, for locality.
        metrics: names of `METRICS`; ``None`` for all, of which each gives only what the data
            has. Efficacy is always among them.
        costly: ask the costly metrics, too.

    Returns:
        What the metrics found.

    Raises:
        ConfigError: an unknown metric.
        RequestError: a prompt that the model cannot read.
    """
    exam = Exam(lm, requests, retention, references, texts, before.outputs if before else None)
    readings: dict[str, Reading] = {}
    for name in chosen(metrics):
        if costly or not METRICS.get(name).costly:
            readings |= METRICS.get(name).read(exam)
    return Evaluation(readings, exam.outputs if before is None else {})


def chosen(metrics: Sequence[str] | None) -> list[str]:
    """The metrics to ask, efficacy first.

    Raises:
        ConfigError: an unknown metric.
    """
    names = ["efficacy", *(METRICS if metrics is None else metrics)]
    for name in names:
        METRICS.get(name)
    return list(dict.fromkeys(names))
