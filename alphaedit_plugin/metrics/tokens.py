"""EasyEdit's token accuracies, averaged over requests as its ``summary_metrics`` does.

One request's, in the host's own layout, are those of `alphaedit_plugin.metrics.per_edit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.metrics.base import (
    REQUESTS,
    Exam,
    Pair,
    Reading,
    Readings,
    known,
    metric,
    pairs_of,
)
from alphaedit_plugin.models.scoring import Answer, matching


@metric("rewrite_acc")
def rewrite_acc(exam: Exam) -> Readings:
    """Share of the new answer's tokens that are predicted behind the edited prompt."""
    asked = exam.ask([[(r.filled, r.target_new)] for r in exam.requests])
    return known(rewrite_acc=_over_requests(asked))


@metric("rephrase_acc")
def rephrase_acc(exam: Exam) -> Readings:
    """The same behind its rephrasings."""
    asked = exam.ask([[(prompt, r.target_new) for prompt in r.rephrase] for r in exam.requests])
    return known(rephrase_acc=_over_requests(asked))


@metric("neighbourhood_acc")
def neighbourhood_acc(exam: Exam) -> Readings:
    """The same of the true answers after neighbourhood prompts (zsRE's specificity in MEMIT).

    Of `locality_acc` it differs in what is right: the data's answer, not the unedited model's.
    """
    groups = _by_probe(exam, lambda r: r.locality).get(NEIGHBOURHOOD, [])
    return known(neighbourhood_acc=_over_requests(exam.ask(groups)))


@metric("portability_acc")
def portability_acc(exam: Exam) -> Readings:
    """The same of each portability probe's answers: a column per probe.

    ``portability`` is the share of all their prompts whose answer, or an alias of it, is
    predicted in full (MQuAKE's multi-hop accuracy; Zhong et al. 2023, §4.1).
    """
    columns = _by_probe(exam, lambda r: r.portability)
    readings = {
        f"portability_acc.{name}": _over_requests(exam.ask(groups))
        for name, groups in columns.items()
    }
    accepted = [
        [pairs for probe in r.portability.values() for pairs in _accepted(probe)]
        for r in exam.requests
    ]
    exam.answers([pair for group in accepted for pairs in group for pair in pairs])  # in one batch
    whole = [
        [float(any(a.accuracy == 1 for a in exam.answers(pairs))) for pairs in group]
        for group in accepted
    ]
    return known(**readings, portability=Reading.mean(REQUESTS, whole))


@metric("locality_acc")
def locality_acc(exam: Exam) -> Readings:
    """Share of the tokens behind locality prompts that are predicted as before the edits.

    A column per probe. The answer that the data gives is only what the prompt is continued with;
    whether the model gets it right does not matter. Needs `Exam.unedited`, without which it only
    notes in `Exam.outputs` what is predicted now.
    """
    readings = {}
    for name, groups in _by_probe(exam, lambda r: r.locality).items():
        asked = exam.ask(groups)
        flat = zip([p for g in groups for p in g], [a for g in asked for a in g], strict=True)
        exam.outputs.update({pair: answer.predicted for pair, answer in flat})
        if exam.unedited is not None:
            kept = [
                [matching(exam.unedited[pair], exam.outputs[pair]) for pair in group]
                for group in groups
            ]
            readings[f"locality_acc.{name}"] = _mean_of_means(kept)
    return known(**readings)


def _by_probe(
    exam: Exam, probes: Callable[[Request], Mapping[str, Probe]]
) -> dict[str, list[list[Pair]]]:
    """Per name of a probe, the questions of each request."""
    names = dict.fromkeys(name for request in exam.requests for name in probes(request))
    return {
        name: [pairs_of(probes(r)[name]) if name in probes(r) else [] for r in exam.requests]
        for name in names
    }


def _accepted(probe: Probe) -> list[list[Pair]]:
    """Per prompt of a probe, all answers that are right."""
    others = probe.accept or ((),) * len(probe.prompts)
    return [
        [(prompt, right) for right in (answer, *aliases)]
        for prompt, answer, aliases in zip(probe.prompts, probe.answers, others, strict=True)
    ]


def _over_requests(asked: Sequence[Sequence[Answer]]) -> Reading | None:
    return _mean_of_means([[answer.accuracy for answer in group] for group in asked])


def _mean_of_means(values: Sequence[Sequence[float]]) -> Reading | None:
    """The host averages the prompts of a request first, and then the requests that have any."""
    return Reading.mean(REQUESTS, [[fmean(group)] if group else [] for group in values])
