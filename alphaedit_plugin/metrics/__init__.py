"""What edits gained and what they broke. Each metric is one function, registered by name."""

from alphaedit_plugin.metrics import retention, text, tokens
from alphaedit_plugin.metrics import success as aspects
from alphaedit_plugin.metrics.base import (
    METRICS,
    Exam,
    Metric,
    Reading,
    Readings,
    lower_is_better,
    metric,
)
from alphaedit_plugin.metrics.evaluation import (
    ASPECTS,
    SURVIVAL,
    Evaluation,
    Measure,
    chosen,
    evaluate,
    harmonic_mean,
)

__all__ = [
    "ASPECTS",
    "METRICS",
    "SURVIVAL",
    "Evaluation",
    "Exam",
    "Measure",
    "Metric",
    "Reading",
    "Readings",
    "aspects",
    "chosen",
    "evaluate",
    "harmonic_mean",
    "lower_is_better",
    "metric",
    "retention",
    "text",
    "tokens",
]
