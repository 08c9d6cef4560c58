"""EasyEdit's metrics of one request: token accuracy before and after, in the host's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import Answer, matching, score, tokenise_pairs

Metrics = dict[str, Any]


def edit_quality(lm: EditableModel, requests: Sequence[Request]) -> list[Metrics]:
    """What ``compute_edit_quality`` of the host returns, for each request, in one batch.

    Returns:
        Per request ``rewrite_acc`` and ``rephrase_acc`` (lists of token accuracies), and under
        ``locality`` and ``portability`` what each probe gave: predicted tokens as
        ``{name}_output``, accuracies as ``{name}_acc``.
    """
    pairs = [pair for request in requests for pair in _pairs(request)]
    answers = iter(score(lm, pairs))
    return [_collect(request, answers) for request in requests]


def check_quality(lm: EditableModel, requests: Sequence[Request]) -> None:
    """Refuse what `edit_quality` could not evaluate, before anything is computed.

    Raises:
        RequestError: see `scoring.score`; the message says which request.
    """
    for number, request in enumerate(requests):
        try:
            tokenise_pairs(lm, list(_pairs(request)))
        except RequestError as error:
            raise RequestError(f"request {number}: {error}") from None


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


def accuracies(metrics: Metrics) -> dict[str, list[float]]:
    """One request's token accuracies: of the edit, its rephrasings, and all locality probes."""
    probes = [values for key, values in metrics["locality"].items() if key.endswith("_acc")]
    return {
        "rewrite": metrics["rewrite_acc"],
        "rephrase": metrics.get("rephrase_acc", []),
        "locality": [value for values in probes for value in values],
    }


def requested_rewrite(request: Request) -> Metrics:
    """The request as the host reports it under ``requested_rewrite``."""
    rewrite: Metrics = {
        "prompt": request.filled,
        "target_new": request.target_new,
        "ground_truth": request.ground_truth,
        "portability": _as_host(request.portability),
        "locality": _as_host(request.locality),
        "subject": request.subject,
    }
    if request.rephrase:
        rewrite["rephrase_prompt"] = _alone(request.rephrase)
    return rewrite


def _pairs(request: Request) -> Iterator[tuple[str, str]]:
    yield request.filled, request.target_new
    for prompt in request.rephrase:
        yield prompt, request.target_new
    for probes in (request.locality, request.portability):
        for probe in probes.values():
            yield from zip(probe.prompts, probe.answers, strict=True)


def _collect(request: Request, answers: Iterator[Answer]) -> Metrics:
    """Take this request's answers off ``answers``, in the order of `_pairs`."""
    metrics: Metrics = {
        "rewrite_acc": [next(answers).accuracy],
        "locality": {},
        "portability": {},
        "metric_meta": {"rewrite": _accuracy_meta("rewrite")},
    }
    if request.rephrase:
        metrics["rephrase_acc"] = [next(answers).accuracy for _ in request.rephrase]
        metrics["metric_meta"]["rephrase"] = _accuracy_meta("rephrase")
    for name, probe in request.locality.items():
        metrics["locality"][f"{name}_output"] = [
            list(next(answers).predicted) for _ in probe.prompts
        ]
    for name, probe in request.portability.items():
        metrics["portability"][f"{name}_acc"] = [next(answers).accuracy for _ in probe.prompts]
    return metrics


def _accuracy_meta(section: str) -> Metrics:
    return {
        "result_key": f"{section}_acc",
        "protocol": "decoder_only_teacher_forcing",
        "scorer": "token_accuracy",
        "comparable_group": "lm.decoder_only_teacher_forcing.token_accuracy",
    }


def _as_host(probes: Mapping[str, Any]) -> Metrics:
    return {
        name: {"prompt": _alone(probe.prompts), "ground_truth": _alone(probe.answers)}
        for name, probe in probes.items()
    }


def _alone(texts: tuple[str, ...]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)
