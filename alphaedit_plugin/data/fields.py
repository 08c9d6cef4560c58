"""Reading a record's fields, with errors that name them as the file does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alphaedit_plugin.common.errors import RequestError, quoted
from alphaedit_plugin.data.request import Probe, Row

SHOWN = 60  # characters of a value that is no text


@dataclass(frozen=True)
class Fields:
    """One record of a file, or an object inside one.

    Attributes:
        content: the object.
        number: the record's in its file, from 0.
        path: where the object is in the record: ``"requested_rewrite."``; empty for the record.
        trimmed: what of the record was left away; readers add to it.
    """

    content: Mapping[str, Any]
    number: int
    path: str = ""
    trimmed: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, content: Any, number: int) -> Fields:
        """A record as it was read.

        Raises:
            RequestError: it is no object.
        """
        return cls(_object("record", content), number)

    def __contains__(self, name: str) -> bool:
        return self.content.get(name) is not None

    def text(self, *names: str) -> str:
        """The text under the first of ``names`` that the record has.

        Raises:
            RequestError: it has none of them, or no text there.
        """
        for name in names:
            if name in self.content:
                return _text(self.path + name, self.content[name])
        wanted = " or ".join(repr(self.path + name) for name in names)
        raise RequestError(f"no {wanted} in it")

    def maybe(self, *names: str) -> str | None:
        """As `text`; ``None`` where there is nothing, or a blank text."""
        for name in names:
            if name in self and self.content[name] != "":
                return _text(self.path + name, self.content[name])
        return None

    def label(self, name: str) -> str | None:
        """A text or a number, as text; ``None`` where there is none."""
        value = self.content.get(name)
        return str(value) if isinstance(value, int) else self.maybe(name)

    def texts(self, *names: str) -> tuple[str, ...]:
        """All texts of a text or a list under the first of ``names`` that the record has.

        Blank ones are left away, and noted in ``trimmed``.

        Raises:
            RequestError: something there is no text.
        """
        for name in names:
            if name in self:
                value = self.content[name]
                given = value if isinstance(value, list) else [value]
                return self._filled(name, given)
        return ()

    def answers(self, name: str) -> tuple[str, ...]:
        """All answers of a text, a list, or a list of lists: the wanted one, then its like.

        Raises:
            RequestError: something there is no text.
        """
        return self._filled(name, _flat(self.content.get(name)), note=False)

    def child(self, name: str) -> Fields:
        """The object under ``name``.

        Raises:
            RequestError: there is none.
        """
        if name not in self.content:
            raise RequestError(f"no {self.path + name!r} in it")
        return self._inside(name, self.content[name])

    def children(self, name: str) -> list[Fields]:
        """The objects of a list under ``name``; none where there is nothing.

        Raises:
            RequestError: it is no list of objects.
        """
        given = self.content.get(name) or []
        if not isinstance(given, list):
            raise RequestError(
                f"{self.path + name} is {quoted(given, SHOWN)}: needs a list of objects"
            )
        return [self._inside(f"{name}[{i}]", item) for i, item in enumerate(given)]

    def names(self, name: str) -> tuple[str, ...]:
        """The keys of the object under ``name``; none where there is nothing."""
        return tuple(self.child(name).content) if self.content.get(name) else ()

    def note(self, what: str) -> None:
        """Remember that something was left away."""
        self.trimmed.append(what)

    def probe(self, entries: Sequence[Fields], prompt: str, answer: str) -> Probe | None:
        """A probe of objects that hold a prompt and its answers; ``None`` where none is left.

        Those without an answer are left away, and noted in ``trimmed``.

        Raises:
            RequestError: an object has no prompt, or something that is no text.
        """
        rows: list[Row] = []
        for entry in entries:
            prompts = entry.texts(prompt) or (entry.text(prompt),)
            found = entry.answers(answer)
            if found:
                rows += [(one, found[0], found[1:]) for one in prompts]
            else:
                self.note(f"{entry.path}{answer} is blank")
        return Probe.of(rows) if rows else None

    def pairs(self, name: str, prompt: str, answer: str) -> dict[str, Probe]:
        """The probe ``name`` of two fields, each a text or a list; none where there is no prompt.

        Raises:
            RequestError: there is no answer, or not one for each prompt.
        """
        if not self.content.get(prompt):
            return {}
        if answer not in self.content:
            raise RequestError(f"no {self.path + answer!r} in it")
        return {name: Probe.parse(self.path + prompt, self.content[prompt], self.content[answer])}

    def _inside(self, name: str, content: Any) -> Fields:
        path = self.path + name
        return Fields(_object(path, content), self.number, f"{path}.", self.trimmed)

    def _filled(self, name: str, given: Sequence[Any], note: bool = True) -> tuple[str, ...]:
        texts = [text for text in given if not (isinstance(text, str) and not text.strip())]
        if note and len(texts) < len(given):
            self.note(f"{self.path + name} is blank")
        return tuple(_text(self.path + name, text) for text in texts)


def _object(name: str, content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise RequestError(f"{name} is {quoted(content, SHOWN)}: needs an object with named fields")
    return content


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RequestError(f"{name} is {quoted(value, SHOWN)}: needs text")
    return value


def _flat(value: Any) -> list[Any]:
    """The leaves of nested lists."""
    if isinstance(value, list):
        return [leaf for item in value for leaf in _flat(item)]
    return [] if value is None else [value]
