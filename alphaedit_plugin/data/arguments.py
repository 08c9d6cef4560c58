"""Requests from the arguments of EasyEdit's ``edit``: one list per field, one entry per prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alphaedit_plugin.common.errors import RequestError, quoted
from alphaedit_plugin.data.request import Probe, Request


def prepare_requests(
    prompts: str | Sequence[str],
    target_new: str | Sequence[str],
    subject: str | Sequence[str] | None = None,
    ground_truth: str | Sequence[str | None] | None = None,
    rephrase_prompts: str | Sequence[str | None] | None = None,
    locality_inputs: Mapping[str, Mapping[str, Any]] | None = None,
    portability_inputs: Mapping[str, Mapping[str, Any]] | None = None,
    target_neg: str | Sequence[str | None] | None = None,
) -> list[Request]:
    """One request per prompt, from the arguments of EasyEdit's ``BaseEditor.edit``.

    Args:
        prompts: one prompt or a list; with the subject in it, or a slot ``{}`` in its place.
        target_new: the new answer of each prompt.
        subject: the subject of each prompt.
        ground_truth: the old answer of each prompt, if known.
        rephrase_prompts: other ways to ask, one or a list per prompt (``None`` for none).
        locality_inputs: ``{name: {"prompt": …, "ground_truth": …}}``, one entry per prompt each.
        portability_inputs: the same form.
        target_neg: only its length is checked: no method here or in the host uses it.

    Raises:
        RequestError: lists of unequal length, or a request that `Request.parse` refuses; the
            message has its number.
    """
    all_prompts = _as_list("prompts", prompts)
    count = len(all_prompts)
    given = {
        "subject": subject,
        "ground_truth": ground_truth,
        "rephrase_prompts": rephrase_prompts or None,
        "target_neg": target_neg,
    }
    columns = {"target_new": _column("target_new", target_new, count)} | {
        name: [None] * count if value is None else _column(name, value, count)
        for name, value in given.items()
    }
    locality = _probes("locality_inputs", locality_inputs, count)
    portability = _probes("portability_inputs", portability_inputs, count)
    requests = []
    for i, prompt in enumerate(all_prompts):
        row = {name: column[i] for name, column in columns.items()}
        rephrase = row["rephrase_prompts"] or ()
        several = isinstance(rephrase, (list, tuple))
        try:
            requests.append(
                Request.parse(
                    prompt,
                    row["subject"],
                    row["target_new"],
                    ground_truth=row["ground_truth"],
                    rephrase=tuple(rephrase) if several else (rephrase,),
                    locality=locality[i],
                    portability=portability[i],
                )
            )
        except RequestError as error:
            raise RequestError(f"request {i}: {error}") from None
    return requests


def _as_list(name: str, value: Any) -> list[Any]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise RequestError(f"{name} is {quoted(value)}: give a text, or a list with one per prompt")
    return list(value)


def _column(name: str, value: Any, count: int) -> list[Any]:
    column = _as_list(name, value)
    if len(column) != count:
        raise RequestError(f"{count} prompts but {len(column)} {name}: give one per prompt")
    return column


def _probes(argument: str, inputs: Any, count: int) -> list[dict[str, Probe]]:
    """EasyEdit's column-wise probe inputs as the probes of each request."""
    form = "{'prompt': …, 'ground_truth': …}"
    if inputs is not None and not isinstance(inputs, Mapping):
        raise RequestError(f"{argument} is {quoted(inputs)}: it must be {{name: {form}}}")
    rows: list[dict[str, Probe]] = [{} for _ in range(count)]
    for name, entry in (inputs or {}).items():
        where = f"{argument}[{name!r}]"
        if not isinstance(entry, Mapping) or not {"prompt", "ground_truth"} <= entry.keys():
            raise RequestError(f"{where} is {quoted(entry)}: it must be {form}")
        columns = [_as_list(f"{where}[{key!r}]", entry[key]) for key in ("prompt", "ground_truth")]
        for column in columns:
            if len(column) != count:
                raise RequestError(f"{where} has {len(column)} entries for {count} prompts")
        for i, (prompt, answer) in enumerate(zip(*columns, strict=True)):
            if prompt is not None:
                rows[i][name] = Probe.parse(f"request {i}: {where}", prompt, answer)
    return rows
