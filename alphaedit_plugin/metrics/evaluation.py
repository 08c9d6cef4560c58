"""A model's evaluation: every metric's values, and the score that sums them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType

from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.metrics.asking import Asked, Generate
from alphaedit_plugin.metrics.base import METRICS, EvalContext, MetricValue, MetricValues, Pair
from alphaedit_plugin.models.decoding import Continuation
from alphaedit_plugin.models.editable import EditableModel

ASPECT_COLUMNS = ("success", "accuracy", "magnitude")
ASPECTS = ("efficacy", "generalisation", "specificity")


@dataclass(frozen=True)
class Aspect:
    """Efficacy, generalisation or specificity; see `alphaedit_plugin.metrics.counterfact`."""

    success: float
    accuracy: float
    magnitude: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A model after some edits.

    Attributes:
        readings: by column, ``"efficacy.success"``, ``"retention.seen"``, ``"fluency"``, …;
            columns that the data has no prompts for are missing.
        outputs: what the unedited model predicts after locality prompts, for `evaluate` after
            edits; empty after them.
        texts: what the model said when it answered freely.
    """

    readings: MetricValues
    outputs: Mapping[Pair, tuple[int, ...]] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )
    texts: Mapping[Asked, Continuation] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    @property
    def efficacy(self) -> Aspect:
        """Of the edited prompts."""
        aspect = self._aspect("efficacy")
        assert aspect is not None  # every request has a prompt
        return aspect

    @property
    def generalisation(self) -> Aspect | None:
        """Of their rephrasings."""
        return self._aspect("generalisation")

    @property
    def specificity(self) -> Aspect | None:
        """Of neighbourhood prompts."""
        return self._aspect("specificity")

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
        """Mean over the groups of `retention`."""
        return fmean(self.retention.values()) if self.retention else None

    @property
    def score(self) -> float:
        """Harmonic mean of efficacy, generalisation and specificity (success), and retention.

        ROME's score (Meng et al. 2022, §3.3), with retention as a fourth part. Parts that the data
        has no prompts for are left out.
        """
        aspects = [self._aspect(name) for name in ASPECTS]
        parts = [aspect.success for aspect in aspects if aspect is not None]
        parts += [self.retained] if self.retained is not None else []
        return harmonic_mean(parts)

    @property
    def summary(self) -> dict[str, float]:
        """Every column's number, and ``retention`` and ``score``."""
        values = {column: reading.value for column, reading in self.readings.items()}
        retained = {} if self.retained is None else {"retention": self.retained}
        return values | retained | {"score": self.score}

    def brief(self) -> Evaluation:
        """Without what columns are the means of, except for which edits hold."""
        return Evaluation(
            {
                column: reading if column in SURVIVAL.values() else MetricValue(reading.value)
                for column, reading in self.readings.items()
            }
        )

    def _aspect(self, name: str) -> Aspect | None:
        parts = {part: self.readings.get(f"{name}.{part}") for part in ASPECT_COLUMNS}
        values = {part: reading.value for part, reading in parts.items() if reading is not None}
        return Aspect(**values) if "success" in values else None


# The columns that say of each edit so far whether it still holds.
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
    generate: Generate | None = None,
) -> Evaluation:
    """Evaluate the model as it is now.

    Args:
        lm: the model.
        requests: the edits made so far.
        retention: untouched facts.
        references: see `EvalContext.references`.
        texts: held-out text, for perplexity.
        before: the unedited model's evaluation on the same requests or more, for locality.
        metrics: names of `METRICS`; ``None`` for all. Efficacy is always among them.
        costly: include the costly metrics.
        generate: how texts are generated; ``None`` for none.

    Raises:
        ConfigError: an unknown metric.
        RequestError: a prompt that the model cannot read.
    """
    unedited = before.outputs if before else None
    context = EvalContext(
        lm, requests, retention, references, texts, unedited,
        generate=generate or Generate(), unedited_texts=before.texts if before else None,
    )  # fmt: skip
    values: dict[str, MetricValue] = {}
    for name in chosen(metrics):
        if costly or not METRICS.get(name).costly:
            values |= METRICS.get(name).read(context)
    outputs = context.outputs if before is None else {}
    return Evaluation(values, outputs, context.texts_said)


def chosen(metrics: Sequence[str] | None) -> list[str]:
    """The metrics to compute, efficacy first.

    Raises:
        ConfigError: an unknown metric.
    """
    names = ["efficacy", *(METRICS if metrics is None else metrics)]
    for name in names:
        METRICS.get(name)
    return list(dict.fromkeys(names))
