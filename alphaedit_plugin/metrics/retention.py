"""What edits left of the rest: untouched facts, and held-out text."""

from __future__ import annotations

from math import exp, inf

from alphaedit_plugin.metrics.base import (
    EvalContext,
    MetricValue,
    MetricValues,
    means,
    metric,
)
from alphaedit_plugin.models.scoring import log_likelihoods


@metric("retention")
def retention(context: EvalContext) -> MetricValues:
    """Share of untouched facts that are still answered right, every token; a column per group.

    An alias (`Probe.accept`) counts as right.
    """
    facts = [
        [(prompt, text) for text in (answer, *others)]
        for probe in context.retention.values()
        for prompt, answer, others in probe.rows
    ]
    asked = iter(context.ask(facts))
    columns: dict[str, MetricValue] = {}
    for name, probe in context.retention.items():
        column, answers = f"retention.{name}", [next(asked) for _ in probe.prompts]
        right = [[float(any(one.accuracy == 1 for one in given))] for given in answers]
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
