"""What a run of edits gained and what it broke, after CounterFact (Meng et al. 2022, §3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from alphaedit_plugin.data.base import NEIGHBOURHOOD
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.request import Probe, Request
from alphaedit_plugin.scoring import Answer, score


@dataclass(frozen=True)
class Measure:
    """One aspect of a model, over all prompts that ask for it.

    Attributes:
        success: share of prompts where the wanted answer is likelier than the other one, by
            probability per token; where no other answer is known, as ``accuracy``.
        accuracy: share of prompts whose wanted answer is predicted, every token of it.
    """

    success: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """A model after some edits.

    Attributes:
        efficacy: the edited prompts; wanted is the new answer, the other is the old one.
        generalisation: their rephrasings, likewise.
        specificity: neighbourhood prompts; wanted is the true answer, the other is the new one.
        retention: named groups of untouched facts: share still answered right, every token.
    """

    efficacy: Measure
    generalisation: Measure | None
    specificity: Measure | None
    retention: Mapping[str, float]

    @property
    def retained(self) -> float | None:
        """Mean over the groups of retention."""
        return fmean(self.retention.values()) if self.retention else None

    @property
    def score(self) -> float:
        """Harmonic mean of efficacy, generalisation and specificity (success), and retention.

        What the data does not have is left out.
        """
        parts = [self.efficacy.success]
        parts += [m.success for m in (self.generalisation, self.specificity) if m is not None]
        parts += [self.retained] if self.retained is not None else []
        return harmonic_mean(parts)


def harmonic_mean(values: Sequence[float]) -> float:
    """``n / Σ 1/x``; 0 where any value is 0."""
    return len(values) / sum(1 / v for v in values) if all(v > 0 for v in values) else 0.0


def evaluate(
    view: EditableModel, requests: Sequence[Request], retention: Mapping[str, Probe]
) -> Evaluation:
    """Evaluate the model as it is now.

    Args:
        view: the model.
        requests: the edits made so far.
        retention: untouched facts.

    Returns:
        Means over all prompts of a kind.
    """
    trials = [trial for request in requests for trial in _trials(request)]
    kept = [(name, pair) for name, probe in retention.items() for pair in _pairs(probe)]
    pairs = [pair for _, wanted, other in trials for pair in (wanted, other or wanted)]
    answers = score(view, pairs + [pair for _, pair in kept])
    kinds: dict[str, list[tuple[Answer, Answer | None]]] = {}
    for i, (kind, _, other) in enumerate(trials):
        rival = answers[2 * i + 1] if other else None
        kinds.setdefault(kind, []).append((answers[2 * i], rival))
    kept_right: dict[str, list[float]] = {}
    for (name, _), answer in zip(kept, answers[len(pairs) :], strict=True):
        kept_right.setdefault(name, []).append(float(answer.accuracy == 1))
    return Evaluation(
        efficacy=_measure(kinds["efficacy"]),
        generalisation=_measure(kinds["generalisation"]) if "generalisation" in kinds else None,
        specificity=_measure(kinds["specificity"]) if "specificity" in kinds else None,
        retention={name: fmean(right) for name, right in kept_right.items()},
    )


Pair = tuple[str, str]


def _trials(request: Request) -> Iterator[tuple[str, Pair, Pair | None]]:
    """(kind, prompt with the wanted answer, prompt with the other answer)."""
    old, new = request.ground_truth, request.target_new
    for kind, prompts in (("efficacy", [request.filled]), ("generalisation", request.rephrase)):
        for prompt in prompts:
            yield kind, (prompt, new), (prompt, old) if old else None
    if NEIGHBOURHOOD in request.locality:
        for prompt, true in _pairs(request.locality[NEIGHBOURHOOD]):
            yield "specificity", (prompt, true), (prompt, new)


def _pairs(probe: Probe) -> list[Pair]:
    return list(zip(probe.prompts, probe.answers, strict=True))


def _measure(trials: Sequence[tuple[Answer, Answer | None]]) -> Measure:
    right = [float(wanted.accuracy == 1) for wanted, _ in trials]
    likelier = [
        float(wanted.mean_log_prob > other.mean_log_prob) if other else hit
        for (wanted, other), hit in zip(trials, right, strict=True)
    ]
    return Measure(fmean(likelier), fmean(right))
