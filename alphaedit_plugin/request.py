"""What a user asks for: one fact to edit, and the prompts that judge the edit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from alphaedit_plugin.errors import RequestError

SLOT = "{}"


@dataclass(frozen=True)
class Probe:
    """Prompts with the answers they should get.

    Attributes:
        prompts: complete prompts, without a slot.
        answers: one answer per prompt.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...]

    @classmethod
    def parse(cls, name: str, prompt: Any, answer: Any) -> Probe:
        """Read EasyEdit's form: a string or a list for ``prompt``, and likewise ``answer``.

        Raises:
            RequestError: the two lists differ in length or hold something other than text.
        """
        prompts = tuple(prompt) if isinstance(prompt, (list, tuple)) else (prompt,)
        answers = tuple(answer) if isinstance(answer, (list, tuple)) else (answer,)
        if len(prompts) != len(answers):
            raise RequestError(
                f"{name}: {len(prompts)} prompts but {len(answers)} answers; one answer per prompt"
            )
        if not all(isinstance(text, str) and text for text in prompts + answers):
            raise RequestError(f"{name}: every prompt and answer must be non-empty text")
        return cls(prompts, answers)


@dataclass(frozen=True)
class Request:
    """One edit: "*The mother tongue of {Danielle Darrieux} is* → English".

    Attributes:
        prompt: template with exactly one ``{}`` where the subject stands.
        subject: what the fact is about.
        target_new: the answer the model should give after the edit.
        ground_truth: the answer it should have given before, if known.
        rephrase: other complete prompts that ask for the same fact.
        locality: named probes whose answers must not change.
        portability: named probes whose answers must follow the edit.
    """

    prompt: str
    subject: str
    target_new: str
    ground_truth: str | None = None
    rephrase: tuple[str, ...] = ()
    locality: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))
    portability: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def filled(self) -> str:
        """The prompt with the subject in its slot."""
        return self.prompt.replace(SLOT, self.subject)

    @classmethod
    def parse(cls, prompt: str, subject: str | None, target_new: str, **rest: Any) -> Request:
        """Check the parts of a request, and put the slot where the subject stands.

        Args:
            prompt: a template with one ``{}``, or a complete prompt that contains ``subject``.
            subject: what the fact is about.
            target_new: the new answer.
            rest: the other fields of `Request`, as they are.

        Raises:
            RequestError: no or an empty subject, prompt or target; a subject that is not in the
                prompt, or is there more than once with no slot to say which is meant.
        """
        for name, text in (("prompt", prompt), ("subject", subject), ("target_new", target_new)):
            if not isinstance(text, str) or not text.strip():
                raise RequestError(f"{name} is {text!r}: a request needs non-empty text there")
        assert subject is not None  # for the type checker; refused above
        subject = subject.strip()
        return cls(_slot(prompt, subject), subject, target_new, **rest)


def _slot(prompt: str, subject: str) -> str:
    """``prompt`` with exactly one slot in the subject's place."""
    slots = prompt.count(SLOT)
    if slots == 1:
        return prompt
    if slots > 1:
        raise RequestError(f"prompt {prompt!r} has {slots} slots '{{}}': leave one")
    places = [match.start() for match in re.finditer(re.escape(subject), prompt)]
    whole_words = [
        match.start() for match in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)
    ]
    if len(places) > 1 and len(whole_words) == 1:
        places = whole_words
    if not places:
        raise RequestError(
            f"subject {subject!r} is not in prompt {prompt!r}: "
            "write it there as it is, or put '{}' in its place"
        )
    if len(places) > 1:
        raise RequestError(
            f"subject {subject!r} occurs {len(places)} times in prompt {prompt!r}: "
            "put '{}' in the place of the one to edit"
        )
    return prompt[: places[0]] + SLOT + prompt[places[0] + len(subject) :]


def prepare_requests(
    prompts: str | Sequence[str],
    target_new: str | Sequence[str],
    subject: str | Sequence[str] | None = None,
    ground_truth: str | Sequence[str | None] | None = None,
    rephrase_prompts: str | Sequence[str | None] | None = None,
    locality_inputs: Mapping[str, Mapping[str, Any]] | None = None,
    portability_inputs: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Request]:
    """Requests from the arguments that EasyEdit's ``BaseEditor.edit`` takes.

    Args:
        prompts: one prompt or a list; with the subject in it or a slot ``{}`` in its place.
        target_new: the new answer of each prompt.
        subject: the subject of each prompt.
        ground_truth: the old answer of each prompt, if known.
        rephrase_prompts: another way to ask, one per prompt (``None`` where there is none).
        locality_inputs: ``{name: {"prompt": …, "ground_truth": …}}``, one entry per prompt each.
        portability_inputs: the same form.

    Returns:
        One checked request per prompt.

    Raises:
        RequestError: lists of unequal length, or a request that `Request.parse` refuses; the
            message says which one.
    """
    all_prompts = _as_list(prompts)
    count = len(all_prompts)
    columns: dict[str, list[Any]] = {
        "target_new": _as_list(target_new),
        "subject": _as_list(subject) if subject is not None else [None] * count,
        "ground_truth": _as_list(ground_truth) if ground_truth is not None else [None] * count,
        "rephrase_prompts": _as_list(rephrase_prompts) if rephrase_prompts else [None] * count,
    }
    for name, column in columns.items():
        if len(column) != count:
            raise RequestError(f"{count} prompts but {len(column)} {name}: give one per prompt")
    locality = _probes("locality_inputs", locality_inputs, count)
    portability = _probes("portability_inputs", portability_inputs, count)
    requests = []
    for i, prompt in enumerate(all_prompts):
        rephrase = columns["rephrase_prompts"][i] or ()
        try:
            requests.append(
                Request.parse(
                    prompt,
                    columns["subject"][i],
                    columns["target_new"][i],
                    ground_truth=columns["ground_truth"][i],
                    rephrase=(rephrase,) if isinstance(rephrase, str) else tuple(rephrase),
                    locality=locality[i],
                    portability=portability[i],
                )
            )
        except RequestError as error:
            raise RequestError(f"request {i}: {error}") from None
    return requests


def _as_list(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _probes(
    argument: str, inputs: Mapping[str, Mapping[str, Any]] | None, count: int
) -> list[dict[str, Probe]]:
    """EasyEdit's column-wise probe inputs, turned into one dict of probes per request."""
    rows: list[dict[str, Probe]] = [{} for _ in range(count)]
    for name, entry in (inputs or {}).items():
        try:
            prompts, answers = _as_list(entry["prompt"]), _as_list(entry["ground_truth"])
        except (KeyError, TypeError):
            raise RequestError(
                f"{argument}[{name!r}] must be {{'prompt': …, 'ground_truth': …}}"
            ) from None
        for key, column in (("prompt", prompts), ("ground_truth", answers)):
            if len(column) != count:
                raise RequestError(
                    f"{argument}[{name!r}][{key!r}] has {len(column)} entries for {count} prompts"
                )
        for row, prompt, answer in zip(rows, prompts, answers, strict=True):
            if prompt is not None:
                row[name] = Probe.parse(f"{argument}[{name!r}]", prompt, answer)
    return rows
