"""Efficacy, generalisation and specificity, after CounterFact (Meng et al. 2022, §3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from alphaedit_plugin.data.request import NEIGHBOURHOOD, Request
from alphaedit_plugin.metrics.base import REQUESTS, Exam, Pair, Reading, Readings, metric, pairs_of
from alphaedit_plugin.models.scoring import Answer


@dataclass(frozen=True)
class Trial:
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
def efficacy(exam: Exam) -> Readings:
    """The edited prompts; wanted is the new answer, the other is the old one.

    Columns, of every aspect; ``p(a) = exp(log P(a | prompt) / tokens of a)``:

    - ``success``: share of prompts with ``p(wanted) > p(other)`` (ROME's ES, PS, NS); where no
      other answer is known, as ``accuracy``.
    - ``accuracy``: share of prompts whose wanted answer, or an alias of it, is predicted, every
      token of it.
    - ``magnitude``: mean of ``p(wanted) - p(other)`` (ROME's EM, PM, NM), over the prompts whose
      other answer is known.
    """
    return _aspect(exam, "efficacy", [_told(r, [r.filled]) for r in exam.requests])


@metric("generalisation")
def generalisation(exam: Exam) -> Readings:
    """Rephrasings of the edited prompts (ROME's paraphrases); else as `efficacy`."""
    return _aspect(exam, "generalisation", [_told(r, r.rephrase) for r in exam.requests])


@metric("specificity")
def specificity(exam: Exam) -> Readings:
    """Neighbourhood prompts; wanted is their true answer, the other the edit's new one."""
    trials = [
        [Trial(pair, (pair[0], r.target_new)) for pair in pairs_of(r.locality[NEIGHBOURHOOD])]
        if NEIGHBOURHOOD in r.locality
        else []
        for r in exam.requests
    ]
    return _aspect(exam, "specificity", trials)


def _told(request: Request, prompts: Sequence[str]) -> list[Trial]:
    """Prompts that the edit should answer."""
    old = request.ground_truth
    return [
        Trial(
            (prompt, request.target_new),
            (prompt, old) if old else None,
            tuple((prompt, alias) for alias in request.accept),
        )
        for prompt in prompts
    ]


def _aspect(exam: Exam, name: str, trials: Sequence[Sequence[Trial]]) -> Readings:
    """An aspect's readings; see `efficacy`."""
    asked = exam.ask([[p for trial in group for p in trial.pairs] for group in trials])
    successes, accuracies, magnitudes = [], [], []
    for group, answers in zip(trials, asked, strict=True):
        rest = iter(answers)
        results = [_result(trial, [next(rest) for _ in trial.pairs]) for trial in group]
        successes.append([success for success, _, _ in results])
        accuracies.append([accuracy for _, accuracy, _ in results])
        magnitudes.append([size for _, _, size in results if size is not None])
    columns = {"success": successes, "accuracy": accuracies, "magnitude": magnitudes}
    means = {f"{name}.{part}": Reading.mean(REQUESTS, v) for part, v in columns.items()}
    return {column: reading for column, reading in means.items() if reading is not None}


def _result(trial: Trial, answers: Sequence[Answer]) -> tuple[float, float, float | None]:
    """Success, accuracy and magnitude of one prompt."""
    wanted, other, *aliases = answers
    accuracy = float(any(answer.accuracy == 1 for answer in (wanted, *aliases)))
    if trial.other is None:
        return accuracy, accuracy, None
    success = float(wanted.mean_log_prob > other.mean_log_prob)
    return success, accuracy, exp(wanted.mean_log_prob) - exp(other.mean_log_prob)
