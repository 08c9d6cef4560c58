"""What edits left of the rest: untouched facts, and held-out text."""

from __future__ import annotations

from math import exp, inf

from alphaedit_plugin.metrics.base import Exam, Reading, Readings, metric, pairs_of
from alphaedit_plugin.models.scoring import log_likelihoods


@metric("retention")
def retention(exam: Exam) -> Readings:
    """Share of untouched facts that are still answered right, every token; a column per group."""
    asked = exam.ask([pairs_of(probe) for probe in exam.retention.values()])
    columns = {
        f"retention.{name}": [[float(answer.accuracy == 1)] for answer in answers]
        for name, answers in zip(exam.retention, asked, strict=True)
    }
    means = {column: Reading.mean(column, values) for column, values in columns.items()}
    return {column: reading for column, reading in means.items() if reading is not None}


@metric("perplexity", costly=True, lower=True)
def perplexity(exam: Exam) -> Readings:
    """Of held-out text: ``exp(-Σ log P(token | the ones before) / tokens)``, over all texts.

    The first token of a text has nothing before it and is not counted.
    """
    found = log_likelihoods(exam.lm, exam.texts)
    tokens = sum(count for _, count in found)
    if not tokens:
        return {}
    loss = -sum(log_prob for log_prob, _ in found) / tokens
    return {"perplexity": Reading(exp(loss) if loss < 700 else inf)}
