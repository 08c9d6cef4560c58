"""What a user asks for: one fact to edit, and the prompts that judge the edit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import Any

from alphaedit_plugin.common.errors import RequestError, quoted
from alphaedit_plugin.data.spelling import normalized, occurrences

SLOT = "{}"
NAMED_SLOT = "{subject}"  # the slot of a prompt in which "{}" may be text
NEIGHBOURHOOD = "neighbourhood"  # the locality probe that specificity is measured on
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which no tokenizer can read

Row = tuple[str, str, tuple[str, ...]]  # prompt, answer, other answers that are as right
Question = tuple[str, str, str]  # "prompt" or "relation", the subject, and that prompt or relation


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str) or not text.strip():
        raise RequestError(f"{name} is {quoted(text)}: a request needs non-empty text there")
    if SURROGATE.search(text):
        raise RequestError(
            f"{name} is {quoted(text)}: it holds half a character (a lone surrogate)"
        )


def _check_texts(name: str, texts: object) -> None:
    if not isinstance(texts, tuple):
        raise RequestError(f"{name} is {quoted(texts)}: it must be a tuple of texts")
    for text in texts:
        _check_text(name, text)


class FactToken(str, Enum):
    """Which token of a prompt holds the fact (ROME, Meng et al. 2022, §3)."""

    subject_last = "subject_last"
    subject_first = "subject_first"
    subject_first_after_last = "subject_first_after_last"
    last = "last"


@dataclass(frozen=True)
class Probe:
    """Prompts with the answers they should get.

    Attributes:
        prompts: complete prompts, without a slot.
        answers: one answer per prompt.
        accept: per prompt, other answers that are as right (aliases); empty where none has any.

    Raises:
        RequestError: they differ in length or hold something other than text.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    accept: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.answers):
            raise RequestError(
                f"{len(self.prompts)} prompts but {len(self.answers)} answers; one answer per "
                "prompt"
            )
        if self.accept and len(self.accept) != len(self.prompts):
            raise RequestError(
                f"{len(self.prompts)} prompts but {len(self.accept)} tuples of other answers"
            )
        _check_texts("prompt", self.prompts)
        _check_texts("answer", self.answers)
        for others in self.accept:
            _check_texts("accept", others)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Probe:
        """The inverse of `rows`."""
        accept = tuple(others for _, _, others in rows)
        prompts, answers = tuple(row[0] for row in rows), tuple(row[1] for row in rows)
        return cls(prompts, answers, accept if any(accept) else ())

    @property
    def rows(self) -> list[Row]:
        """Each prompt with its answer and the other answers that are as right."""
        accept = self.accept or ((),) * len(self.prompts)
        return list(zip(self.prompts, self.answers, accept, strict=True))

    @classmethod
    def parse(cls, name: str, prompt: Any, answer: Any) -> Probe:
        """Read EasyEdit's form: ``prompt`` and ``answer`` are each a text or a list.

        Raises:
            RequestError: the two lists differ in length or hold something other than text.
        """
        prompts = tuple(prompt) if isinstance(prompt, (list, tuple)) else (prompt,)
        answers = tuple(answer) if isinstance(answer, (list, tuple)) else (answer,)
        try:
            return cls(prompts, answers)
        except RequestError as error:
            raise RequestError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Request:
    """One edit: "*The mother tongue of {Danielle Darrieux} is* → English".

    Attributes:
        prompt: template with exactly one ``{}`` in the subject's place; or with one
            ``{subject}``, and then every ``{}`` is text.
        subject: what the fact is about.
        target_new: the answer the model should give after the edit.
        ground_truth: the answer it should have given before, if known.
        rephrase: other complete prompts that ask for the same fact.
        locality: named probes whose answers must not change.
        portability: named probes whose answers must follow the edit.
        accept: other answers that are as right as ``target_new`` (aliases).
        generation: prompts about the subject that the model continues freely, for fluency and
            consistency.
        attribute: complete prompts about other subjects, of which ``target_new`` was true already.
        references: texts about subjects of which ``target_new`` is true; what the model says of
            the edited subject should resemble them (consistency).
        case_id: the record that it comes from; several requests may share one.
        relation: the relation's name, if known.

    Raises:
        RequestError: a part that is missing, blank or of another type; or not exactly one slot.
    """

    prompt: str
    subject: str
    target_new: str
    ground_truth: str | None = None
    rephrase: tuple[str, ...] = ()
    locality: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))
    portability: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))
    accept: tuple[str, ...] = ()
    generation: tuple[str, ...] = ()
    attribute: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    case_id: str | None = None
    relation: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "subject", "target_new"):
            _check_text(name, getattr(self, name))
        if self.prompt.count(NAMED_SLOT) != 1 and self.prompt.count(SLOT) != 1:
            slots = self.prompt.count(NAMED_SLOT) or self.prompt.count(SLOT)
            raise RequestError(
                f"prompt {quoted(self.prompt)} has {slots} slots: keep one '{{}}', or write "
                f"'{NAMED_SLOT}' in its place where '{{}}' belongs to the text"
            )
        for name in ("ground_truth", "case_id", "relation"):
            if getattr(self, name) is not None:
                _check_text(name, getattr(self, name))
        for name in ("rephrase", "accept", "generation", "attribute", "references"):
            _check_texts(name, getattr(self, name))
        for name in ("locality", "portability"):
            probes = getattr(self, name)
            fine = isinstance(probes, Mapping)
            if not fine or not all(isinstance(probe, Probe) for probe in probes.values()):
                raise RequestError(f"{name} is {quoted(probes)}: it must map names to probes")

    @property
    def filled(self) -> str:
        """The prompt with the subject in its slot."""
        return self.subject.join(split_slot(self.prompt))

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """What is asked: see `questions_of`."""
        return questions_of(self.prompt, self.subject, self.relation)

    @cached_property
    def answer(self) -> str:
        """``target_new`` as it is compared with others."""
        return normalized(self.target_new)

    @classmethod
    def parse(
        cls,
        prompt: str,
        subject: str | None,
        target_new: str,
        *,
        template: bool = False,
        **rest: Any,
    ) -> Request:
        """Put the slot where the subject stands, and check all parts.

        Args:
            prompt: a template, see `Request`, or a complete prompt that contains ``subject``,
                possibly in other Unicode forms, blanks, quotation marks or dashes; the request
                takes the prompt's spelling.
            subject: what the fact is about.
            target_new: the new answer.
            template: a single ``{}`` is the slot, even if the subject is in the prompt, too.
            rest: the other fields of `Request`.

        Raises:
            RequestError: a part is missing or blank; the subject is not in the prompt; or it is
                there more than once, or beside a ``{}``, without a ``{subject}`` to say which is
                meant.
        """
        _check_text("prompt", prompt)
        _check_text("subject", subject)
        assert subject is not None  # for the type checker; refused above
        subject = subject.strip()
        if not (template and prompt.count(SLOT) == 1):
            prompt, subject = _placed(prompt, subject)
        return cls(prompt, subject, target_new, **rest)


def split_slot(template: str) -> tuple[str, str]:
    """The text before and after the slot: ``{subject}`` where there is one, else ``{}``."""
    before, _, after = template.partition(NAMED_SLOT if NAMED_SLOT in template else SLOT)
    return before, after


def questions_of(prompt: str, subject: str, relation: str | None = None) -> tuple[Question, ...]:
    """What a request asks: two that share a question ask the same.

    They do if the subject and the prompt, or the subject and the relation, are the same text up to
    blanks and spelling (see `spelling.folded`).
    """
    about = normalized(subject)
    by_prompt = ("prompt", about, normalized(SLOT.join(split_slot(prompt))))
    if relation is None:
        return (by_prompt,)
    return by_prompt, ("relation", about, normalized(relation))


def among(request: Request, requests: Sequence[Request]) -> bool:
    """Whether ``requests`` holds this very object, not only an equal one."""
    return any(request is one for one in requests)


def _placed(prompt: str, subject: str) -> tuple[str, str]:
    """``prompt`` as a template, and the subject as the prompt spells it."""
    if NAMED_SLOT in prompt:
        return prompt, subject
    spans = occurrences(subject, prompt)
    if SLOT in prompt and not spans:
        return prompt, subject
    if not spans:
        raise RequestError(
            f"subject {quoted(subject)} is not in prompt {quoted(prompt)}: "
            "write it there in full, or put '{}' in its place"
        )
    if len(spans) > 1 or prompt.count(SLOT) == 1:
        beside = " beside a '{}'" if SLOT in prompt else ""
        times = "once" if len(spans) == 1 else f"{len(spans)} times"
        raise RequestError(
            f"subject {quoted(subject)} occurs {times}{beside} in prompt {quoted(prompt)}: put "
            f"'{NAMED_SLOT}' in the place of the one to edit"
        )
    start, end = spans[0]
    slot = NAMED_SLOT if SLOT in prompt else SLOT
    return prompt[:start] + slot + prompt[end:], prompt[start:end]
