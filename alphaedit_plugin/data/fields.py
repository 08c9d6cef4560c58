"""Reading a record's fields, with errors that name them as the file does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from alphaedit_plugin.common.errors import RequestError, quoted
from alphaedit_plugin.data.request import Probe, Row

QUOTED = 60  # characters of a bad value in a message


@dataclass(frozen=True)
class Fields:
    """One record of a file, or an object inside one.

    Every method raises `RequestError` for a value of the wrong type.

    Attributes:
        content: the object.
        number: the record's in its file, from 0.
        path: the object's in the record: ``"requested_rewrite."``; empty for the record.
        trimmed: parts of the record that cannot be asked; readers add to it.
    """

    content: Mapping[str, Any]
    number: int
    path: str = ""
    trimmed: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, content: Any, number: int) -> Fields:
        """A record as `read_records` gives it."""
        if isinstance(content, RequestError):
            raise content
        return cls(_object("record", content), number)

    def __contains__(self, name: str) -> bool:
        return self.content.get(name) is not None

    def text(self, *names: str) -> str:
        """The text under the first of ``names`` that is there; one has to be."""
        for name in names:
            if name in self.content:
                return self._text(name, self.content[name])
        raise self._missing(*names)

    def maybe(self, name: str) -> str | None:
        """As `text`; ``None`` where there is nothing, or empty text."""
        return self.text(name) if name in self and self.content[name] != "" else None

    def label(self, name: str) -> str | None:
        """A text or a whole number, as text."""
        value = self.content.get(name)
        return str(value) if isinstance(value, int) else self.maybe(name)

    def texts(self, *names: str, note: bool = True) -> tuple[str, ...]:
        """All texts of a text or a list, also nested, under the first of ``names`` that is there.

        Blank ones are skipped and, with ``note``, added to ``trimmed``.
        """
        for name in names:
            if name in self:
                leaves = list(_leaves(self.content[name]))
                filled = [x for x in leaves if not _is_blank(x)]
                if note and len(filled) < len(leaves):
                    self.note(f"{self.path}{name} is blank")
                return tuple(self._text(name, text) for text in filled)
        return ()

    def child(self, name: str, required: bool = True) -> Fields:
        """The object under ``name``; where it is missing and not required, an empty one."""
        if name in self or (name in self.content and required):
            return self._inside(name, self.content[name])
        if required:
            raise self._missing(name)
        return Fields({}, self.number, f"{self.path}{name}.", self.trimmed)

    def children(self, name: str) -> list[Fields]:
        """The objects of a list under ``name``; none where it is missing."""
        items = self.content.get(name) or []
        if not isinstance(items, list):
            shown = quoted(items, QUOTED)
            raise RequestError(f"{self.path}{name} is {shown}: needs a list of objects")
        return [self._inside(f"{name}[{i}]", item) for i, item in enumerate(items)]

    def note(self, what: str) -> None:
        """Add to ``trimmed``."""
        self.trimmed.append(what)

    def probe(self, name: str, prompt: str, answer: str) -> dict[str, Probe]:
        """The probe ``name`` of a list of objects, each a prompt with its answers.

        The first answer is wanted, others are as right. Objects without one are noted in
        ``trimmed``; where none is left there is no probe.
        """
        rows: list[Row] = []
        for entry in self.children(name):
            prompts = entry.texts(prompt) or (entry.text(prompt),)
            answers = entry.texts(answer, note=False)
            if answers:
                rows += [(one, answers[0], answers[1:]) for one in prompts]
            else:
                self.note(f"{entry.path}{answer} is blank")
        return {name: Probe.of(rows)} if rows else {}

    def pairs(self, name: str, prompt: str, answer: str) -> dict[str, Probe]:
        """The probe ``name`` of two fields, each a text or a list; none without a prompt."""
        if not self.content.get(prompt):
            return {}
        if answer not in self.content:
            raise self._missing(answer)
        return {name: Probe.parse(self.path + prompt, self.content[prompt], self.content[answer])}

    def _text(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise RequestError(f"{self.path}{name} is {quoted(value, QUOTED)}: needs text")
        return value

    def _inside(self, name: str, content: Any) -> Fields:
        path = self.path + name
        return Fields(_object(path, content), self.number, f"{path}.", self.trimmed)

    def _missing(self, *names: str) -> RequestError:
        return RequestError(f"no {' or '.join(repr(self.path + name) for name in names)} in it")


def _object(name: str, content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        shown = quoted(content, QUOTED)
        raise RequestError(f"{name} is {shown}: needs an object with named fields")
    return content


def _leaves(value: Any) -> Iterator[Any]:
    """The items of nested lists."""
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
