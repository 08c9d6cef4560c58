"""EasyEdit's token accuracies, teacher-forced: in its own layout, and as metrics.

Its layout is what ``compute_edit_quality`` returns for one request; the metrics average over
requests as ``summary_metrics`` does: first the prompts of a request, then the requests that have
any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.metrics.base import (
    EvalContext,
    MetricValues,
    Pair,
    means,
    metric,
    pairs_of,
)
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import Answer, matching, tokenise_pairs

Metrics = dict[str, Any]  # in EasyEdit's layout


def pairs_by_section(request: Request) -> dict[str, list[Pair]]:
    """What EasyEdit asks about one request, by section: ``"rewrite"``, ``"locality.<probe>"``."""
    asked = {
        "rewrite": [(request.filled, request.target_new)],
        "rephrase": [(prompt, request.target_new) for prompt in request.rephrase],
    }
    for section, probes in (("locality", request.locality), ("portability", request.portability)):
        asked |= {f"{section}.{name}": pairs_of(probe) for name, probe in probes.items()}
    return asked


# ---------------------------------------------------------------------------------------------
# One request, in EasyEdit's layout


def edit_quality(lm: EditableModel, requests: Sequence[Request]) -> list[Metrics]:
    """What EasyEdit's ``compute_edit_quality`` returns, for each request, in one batch.

    Returns:
        Per request ``rewrite_acc`` and ``rephrase_acc`` (lists of token accuracies), and under
        ``locality`` and ``portability`` the predicted tokens of each probe as ``{name}_output``,
        or their accuracies as ``{name}_acc``.
    """
    asked = [pairs_by_section(request) for request in requests]
    context = EvalContext(lm, requests)
    answers = iter(context.ask([pairs for one in asked for pairs in one.values()]))
    return [_layout({section: next(answers) for section in one}) for one in asked]


def _layout(answers: Mapping[str, Sequence[Answer]]) -> Metrics:
    metrics: Metrics = {"locality": {}, "portability": {}, "metric_meta": {}}
    for section, given in answers.items():
        kind, _, name = section.partition(".")
        accuracies = [answer.accuracy for answer in given]
        if kind == "locality":
            metrics[kind][f"{name}_output"] = [list(answer.predicted) for answer in given]
        elif kind == "portability":
            metrics[kind][f"{name}_acc"] = accuracies
        elif given:
            metrics[f"{kind}_acc"] = accuracies
            metrics["metric_meta"][kind] = {
                "result_key": f"{kind}_acc",
                "protocol": "decoder_only_teacher_forcing",
                "scorer": "token_accuracy",
                "comparable_group": "lm.decoder_only_teacher_forcing.token_accuracy",
            }
    return metrics


def add_locality(before: Metrics, after: Metrics) -> None:
    """Write ``{name}_acc`` into ``after["locality"]``: tokens predicted as before the edit."""
    for key, outputs in list(after["locality"].items()):
        name = key.removesuffix("_output")
        after["locality"][f"{name}_acc"] = [
            matching(old, new) for old, new in zip(before["locality"][key], outputs, strict=True)
        ]
        after["metric_meta"][f"locality.{name}"] = {
            "result_key": f"locality.{name}_acc",
            "protocol": "pre_post_argmax_token_match",
            "scorer": "token_match",
            "comparable_group": "locality.lm.pre_post_argmax_token_match",
        }


def check_quality(lm: EditableModel, requests: Sequence[Request]) -> None:
    """Refuse what `edit_quality` could not evaluate, before anything is computed.

    Raises:
        RequestError: see `scoring.score`; the message has the request's number.
    """
    for number, request in enumerate(requests):
        try:
            tokenise_pairs(lm, [p for pairs in pairs_by_section(request).values() for p in pairs])
        except RequestError as error:
            raise RequestError(f"request {number}: {error}") from None


def accuracies(metrics: Metrics) -> dict[str, list[float]]:
    """One request's token accuracies: of the edit, its rephrasings, and all locality probes."""
    probes = [values for key, values in metrics["locality"].items() if key.endswith("_acc")]
    return {
        "rewrite": metrics["rewrite_acc"],
        "rephrase": metrics.get("rephrase_acc", []),
        "locality": [value for values in probes for value in values],
    }


def requested_rewrite(request: Request) -> Metrics:
    """The request as EasyEdit reports it under ``requested_rewrite``."""
    rewrite: Metrics = {
        "prompt": request.filled,
        "target_new": request.target_new,
        "ground_truth": request.ground_truth,
        "portability": _probes(request.portability),
        "locality": _probes(request.locality),
        "subject": request.subject,
    }
    if request.rephrase:
        rewrite["rephrase_prompt"] = _alone(request.rephrase)
    return rewrite


def _probes(probes: Mapping[str, Probe]) -> Metrics:
    return {
        name: {"prompt": _alone(probe.prompts), "ground_truth": _alone(probe.answers)}
        for name, probe in probes.items()
    }


def _alone(texts: tuple[str, ...]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)


# ---------------------------------------------------------------------------------------------
# Over all requests, as metrics


@metric("rewrite_acc")
def rewrite_acc(context: EvalContext) -> MetricValues:
    """Share of the new answer's tokens that are predicted after the edited prompt."""
    return means({"rewrite_acc": _accuracy(context, "rewrite")})


@metric("rephrase_acc")
def rephrase_acc(context: EvalContext) -> MetricValues:
    """The same after its rephrasings."""
    return means({"rephrase_acc": _accuracy(context, "rephrase")})


@metric("neighbourhood_acc")
def neighbourhood_acc(context: EvalContext) -> MetricValues:
    """The same of the true answers after neighbourhood prompts (zsRE's specificity in MEMIT).

    Unlike in `locality_acc`, the data's answer is right, not the unedited model's.
    """
    return means({"neighbourhood_acc": _accuracy(context, f"locality.{NEIGHBOURHOOD}")})


@metric("portability_acc")
def portability_acc(context: EvalContext) -> MetricValues:
    """The same of each portability probe's answers: a column per probe.

    ``portability`` is the share of all their prompts whose answer, or an alias of it, is
    predicted in full (MQuAKE's multi-hop accuracy; Zhong et al. 2023, §4.1).
    """
    columns = {
        f"portability_acc.{name}": _accuracy(context, section)
        for name, section in _sections(context, "portability").items()
    }
    accepted = [
        [
            [(prompt, right) for right in (answer, *others)]
            for probe in request.portability.values()
            for prompt, answer, others in probe.rows
        ]
        for request in context.requests
    ]
    context.answers([p for group in accepted for pairs in group for p in pairs])  # in one batch
    columns["portability"] = [
        [float(any(a.accuracy == 1 for a in context.answers(pairs))) for pairs in group]
        for group in accepted
    ]
    return means(columns)


@metric("locality_acc")
def locality_acc(context: EvalContext) -> MetricValues:
    """Share of the tokens after locality prompts that are predicted as before the edits.

    A column per probe. The prompt is continued with the data's answer, whether or not the model
    gets it right. Without `EvalContext.unedited` it only writes `EvalContext.outputs`.
    """
    columns, before = {}, context.unedited
    for name, section in _sections(context, "locality").items():
        groups = [pairs_by_section(request).get(section, []) for request in context.requests]
        answers = context.ask(groups)
        flat = zip(chain.from_iterable(groups), chain.from_iterable(answers), strict=True)
        context.outputs.update({pair: answer.predicted for pair, answer in flat})
        if before is not None:
            columns[f"locality_acc.{name}"] = _per_request(
                [[matching(before[pair], context.outputs[pair]) for pair in g] for g in groups]
            )
    return means(columns)


def _sections(context: EvalContext, kind: str) -> dict[str, str]:
    """By the name of a probe, its section in `pairs_by_section`."""
    asked = [section for request in context.requests for section in pairs_by_section(request)]
    return {s.removeprefix(f"{kind}."): s for s in asked if s.startswith(f"{kind}.")}


def _accuracy(context: EvalContext, section: str) -> list[list[float]]:
    asked = context.ask([pairs_by_section(r).get(section, []) for r in context.requests])
    return _per_request([[answer.accuracy for answer in answers] for answers in asked])


def _per_request(values: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[fmean(group)] if group else [] for group in values]
