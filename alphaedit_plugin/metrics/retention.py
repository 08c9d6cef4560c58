"""What edits left of the rest: untouched facts, and held-out text."""

from __future__ import annotations

from math import exp, inf

from alphaedit_plugin.metrics.base import (
    EvalContext,
    MetricValue,
    MetricValues,
    means,
    metric,
    pairs_of,
)
from alphaedit_plugin.models.scoring import log_likelihoods


@metric("retention")
def retention(context: EvalContext) -> MetricValues:
    """Share of untouched facts that are still answered right, every token; a column per group."""
    asked = context.ask([pairs_of(probe) for probe in context.retention.values()])
    columns: dict[str, MetricValue] = {}
    for name, answers in zip(context.retention, asked, strict=True):
        column, right = f"retention.{name}", [[float(answer.accuracy == 1)] for answer in answers]
        columns |= means({column: right}, unit=column)
    return columns


@metric("perplexity", costly=True, lower=True)
def perplexity(context: EvalContext) -> MetricValues:
    """Of held-out text: ``exp(-Σ log P(token | the ones before) / tokens)``, over all texts.

    The first token of a text has nothing before it and is not counted.
    """
    sums = log_likelihoods(context.lm, context.texts)
    tokens = sum(count for _, count in sums)
    if not tokens:
        return {}
    loss = -sum(log_prob for log_prob, _ in sums) / tokens
    return {"perplexity": MetricValue(exp(loss) if loss < 700 else inf)}
