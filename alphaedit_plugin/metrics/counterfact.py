"""Efficacy, generalisation and specificity, as on CounterFact (Meng et al. 2022, §3.3).

Columns of each; ``p(a) = exp(log P(a | prompt) / tokens of a)``:

- ``success``: share of prompts with ``p(wanted) > p(other)`` (ROME's ES, PS, NS); where no other
  answer is known, as ``accuracy``.
- ``accuracy``: share of prompts whose wanted answer, or an alias of it, is predicted, every token
  of it.
- ``magnitude``: mean of ``p(wanted) - p(other)`` (ROME's EM, PM, NM), over the prompts whose other
  answer is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from alphaedit_plugin.data.request import NEIGHBOURHOOD, Request
from alphaedit_plugin.metrics.base import EvalContext, MetricValues, Pair, means, metric
from alphaedit_plugin.models.scoring import Answer


@dataclass(frozen=True)
class Contrast:
    """One prompt with two answers.

    Attributes:
        wanted: the prompt with the answer it should get.
        other: the prompt with the answer it should not get, if one is known.
        aliases: the prompt with answers that are as right as the wanted one.
    """

    wanted: Pair
    other: Pair | None
    aliases: tuple[Pair, ...] = ()

    @property
    def pairs(self) -> list[Pair]:
        """All that has to be scored."""
        return [self.wanted, self.other or self.wanted, *self.aliases]


@metric("efficacy")
def efficacy(context: EvalContext) -> MetricValues:
    """On the edited prompts: wanted is the new answer, the other is the old one."""
    return _columns(context, "efficacy", [_contrasts(r, [r.filled]) for r in context.requests])


@metric("generalisation")
def generalisation(context: EvalContext) -> MetricValues:
    """The same on rephrasings of the edited prompts (ROME's paraphrases)."""
    contrasts = [_contrasts(r, r.rephrase) for r in context.requests]
    return _columns(context, "generalisation", contrasts)


@metric("specificity")
def specificity(context: EvalContext) -> MetricValues:
    """On neighbourhood prompts: wanted is their true answer, the other is the edit's new one."""
    contrasts = []
    for request in context.requests:
        probe = request.locality.get(NEIGHBOURHOOD)
        rows = probe.rows if probe else []
        contrasts.append([Contrast((p, a), (p, request.target_new)) for p, a, _ in rows])
    return _columns(context, "specificity", contrasts)


def _contrasts(request: Request, prompts: Sequence[str]) -> list[Contrast]:
    """Prompts that the edit should answer."""
    old = request.ground_truth
    return [
        Contrast(
            (prompt, request.target_new),
            (prompt, old) if old else None,
            tuple((prompt, alias) for alias in request.accept),
        )
        for prompt in prompts
    ]


def _columns(
    context: EvalContext, name: str, contrasts: Sequence[Sequence[Contrast]]
) -> MetricValues:
    asked = context.ask([[p for contrast in group for p in contrast.pairs] for group in contrasts])
    successes, accuracies, magnitudes = [], [], []
    for group, answers in zip(contrasts, asked, strict=True):
        rest = iter(answers)
        results = [_result(contrast, [next(rest) for _ in contrast.pairs]) for contrast in group]
        successes.append([success for success, _, _ in results])
        accuracies.append([accuracy for _, accuracy, _ in results])
        magnitudes.append([size for _, _, size in results if size is not None])
    columns = {"success": successes, "accuracy": accuracies, "magnitude": magnitudes}
    return means({f"{name}.{part}": values for part, values in columns.items()})


def _result(contrast: Contrast, answers: Sequence[Answer]) -> tuple[float, float, float | None]:
    """Success, accuracy and magnitude of one prompt."""
    wanted, other, *aliases = answers
    accuracy = float(any(answer.accuracy == 1 for answer in (wanted, *aliases)))
    if contrast.other is None:
        return accuracy, accuracy, None
    success = float(wanted.mean_log_prob > other.mean_log_prob)
    return success, accuracy, exp(wanted.mean_log_prob) - exp(other.mean_log_prob)
