"""What a user asks for: one fact to edit, and the prompts that judge the edit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

from alphaedit_plugin.common.errors import RequestError, quoted
from alphaedit_plugin.data.spelling import occurrences

SLOT = "{}"
NAMED_SLOT = "{subject}"  # the slot of a prompt in which "{}" may be text
HALF = re.compile("[\ud800-\udfff]")  # half a character, which no tokenizer can read

Row = tuple[str, str, tuple[str, ...]]


def _check_text(name: str, text: object) -> None:
    """Refuse what is not text, or blank, or what no tokenizer can read."""
    if not isinstance(text, str) or not text.strip():
        raise RequestError(f"{name} is {quoted(text)}: a request needs non-empty text there")
    if HALF.search(text):
        raise RequestError(
            f"{name} is {quoted(text)}: it holds half a character (a lone surrogate)"
        )


def _check_texts(name: str, texts: object) -> None:
    """Refuse what is no tuple of texts."""
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
        """A probe of triples: prompt, answer, other answers that are as right."""
        prompts = tuple(prompt for prompt, _, _ in rows)
        answers = tuple(answer for _, answer, _ in rows)
        accept = tuple(others for _, _, others in rows)
        return cls(prompts, answers, accept if any(accept) else ())

    @property
    def rows(self) -> list[Row]:
        """Each prompt with its answer and the other answers that are as right."""
        accept = self.accept or ((),) * len(self.prompts)
        return list(zip(self.prompts, self.answers, accept, strict=True))

    @classmethod
    def parse(cls, name: str, prompt: Any, answer: Any) -> Probe:
        """Read EasyEdit's form: a string or a list for ``prompt``, and likewise ``answer``.

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
        prompt: template with exactly one ``{}`` where the subject stands; or with one
            ``{subject}``, beside which every ``{}`` is text.
        subject: what the fact is about.
        target_new: the answer the model should give after the edit.
        ground_truth: the answer it should have given before, if known.
        rephrase: other complete prompts that ask for the same fact.
        locality: named probes whose answers must not change.
        portability: named probes whose answers must follow the edit.
        accept: other answers that are as right as ``target_new`` (aliases).
        generation: prompts about the subject that the model goes on from freely, for fluency and
            consistency.
        attribute: complete prompts about other subjects, of whom ``target_new`` was true already.
        references: texts about ``target_new``'s kind of subject, which what the model says of
            the edited subject should resemble (consistency).
        case_id: which record of its data it is of; several requests may share one.
        relation: the relation's name where the data has one: two requests about the same subject
            and relation ask the same thing, in whatever words.

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
                f"prompt {quoted(self.prompt)} has {slots} slots: leave one '{{}}', or write "
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
            prompt: a template, see `Request`, or a complete prompt that contains ``subject``, as it
                is or in other Unicode forms, blanks, quotation marks or dashes; the request then
                takes the prompt's spelling.
            subject: what the fact is about.
            target_new: the new answer.
            template: a single ``{}`` is the slot, wherever else the subject may stand.
            rest: the other fields of `Request`, as they are.

        Raises:
            RequestError: no or an empty subject, prompt or target; a subject that is not in the
                prompt; or one that is there more than once, or beside a ``{}``, with no
                ``{subject}`` to say which is meant.
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


def among(request: Request, requests: Sequence[Request]) -> bool:
    """Whether this very request is there, and not only one that asks for the same."""
    return any(request is one for one in requests)


def _placed(prompt: str, subject: str) -> tuple[str, str]:
    """``prompt`` with a slot in the subject's place, and the subject as the prompt spells it."""
    if NAMED_SLOT in prompt:
        return prompt, subject
    spans = occurrences(subject, prompt)
    if SLOT in prompt and not spans:
        return prompt, subject
    if not spans:
        raise RequestError(
            f"subject {quoted(subject)} is not in prompt {quoted(prompt)}: "
            "write it there as it is, or put '{}' in its place"
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
    """Requests from the arguments that EasyEdit's ``BaseEditor.edit`` takes.

    Args:
        prompts: one prompt or a list; with the subject in it or a slot ``{}`` in its place.
        target_new: the new answer of each prompt.
        subject: the subject of each prompt.
        ground_truth: the old answer of each prompt, if known.
        rephrase_prompts: other ways to ask, one or a list per prompt (``None`` for none).
        locality_inputs: ``{name: {"prompt": …, "ground_truth": …}}``, one entry per prompt each.
        portability_inputs: the same form.
        target_neg: counted, but not read: as in the host, no method here uses it.

    Returns:
        One checked request per prompt.

    Raises:
        RequestError: lists of unequal length, or a request that `Request.parse` refuses; the
            message says which one.
    """
    all_prompts = _as_list("prompts", prompts)
    count = len(all_prompts)
    required = {"target_new": target_new}
    optional = {
        "subject": subject,
        "ground_truth": ground_truth,
        "rephrase_prompts": rephrase_prompts or None,
        "target_neg": target_neg,
    }
    given = required | {name: value for name, value in optional.items() if value is not None}
    columns: dict[str, list[Any]] = dict.fromkeys(optional, [None] * count)
    columns |= {name: _column(name, value, count) for name, value in given.items()}
    locality = _probes("locality_inputs", locality_inputs, count)
    portability = _probes("portability_inputs", portability_inputs, count)
    requests = []
    for i, prompt in enumerate(all_prompts):
        row = {name: column[i] for name, column in columns.items()}
        try:
            requests.append(
                Request.parse(
                    prompt,
                    row["subject"],
                    row["target_new"],
                    ground_truth=row["ground_truth"],
                    rephrase=_rephrasings(row["rephrase_prompts"]),
                    locality=locality[i],
                    portability=portability[i],
                )
            )
        except RequestError as error:
            raise RequestError(f"request {i}: {error}") from None
    return requests


def _as_list(name: str, value: Any) -> list[Any]:
    """A text alone, or all of a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise RequestError(f"{name} is {quoted(value)}: give a text, or a list with one per prompt")
    return list(value)


def _column(name: str, value: Any, count: int) -> list[Any]:
    """One entry per prompt."""
    column = _as_list(name, value)
    if len(column) != count:
        raise RequestError(f"{count} prompts but {len(column)} {name}: give one per prompt")
    return column


def _rephrasings(given: Any) -> tuple[Any, ...]:
    """One prompt's: a text, a list of them, or none."""
    return tuple(given) if isinstance(given, (list, tuple)) else (given,) if given else ()


def _probes(argument: str, inputs: Any, count: int) -> list[dict[str, Probe]]:
    """EasyEdit's column-wise probe inputs, turned into one dict of probes per request."""
    form = "{'prompt': …, 'ground_truth': …}"
    if inputs is not None and not isinstance(inputs, Mapping):
        raise RequestError(f"{argument} is {quoted(inputs)}: it must be {{name: {form}}}")
    rows: list[dict[str, Probe]] = [{} for _ in range(count)]
    for name, entry in (inputs or {}).items():
        place = f"{argument}[{name!r}]"
        if not isinstance(entry, Mapping) or not {"prompt", "ground_truth"} <= entry.keys():
            raise RequestError(f"{place} is {quoted(entry)}: it must be {form}")
        columns = [_as_list(f"{place}[{key!r}]", entry[key]) for key in ("prompt", "ground_truth")]
        for column in columns:
            if len(column) != count:
                raise RequestError(f"{place} has {len(column)} entries for {count} prompts")
        for i, (prompt, answer) in enumerate(zip(*columns, strict=True)):
            if prompt is not None:
                rows[i][name] = Probe.parse(f"request {i}: {place}", prompt, answer)
    return rows
