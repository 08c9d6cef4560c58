"""A journal on disk: a folder to which files are only ever added.

File 0 says which model it is for. Each later one holds an entry, or takes earlier ones back, or
adds what was measured. A file is there whole or not at all, so whoever is killed loses the batch
in flight and no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError, PatchError
from alphaedit_plugin.common.files import Claim, read_artefact, write_artefact
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.editing.entry import Entry, now
from alphaedit_plugin.editing.undo import Undone, remaining
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches import reading
from alphaedit_plugin.patches.header import FINGERPRINT, SAMPLE, Header, check_claims
from alphaedit_plugin.patches.patch import KIND, Patch, check_names, readable
from alphaedit_plugin.patches.record import Record, pack, unpack

NAME = "{:08d}.safetensors"
NUMBERED = re.compile(r"\d{8}\.safetensors")
LOCK = "lock"
HEADER, ENTRY, UNDO, METRICS = "journal", "entry", "undo", "metrics"


@dataclass
class Journal:
    """An open journal.

    Attributes:
        folder: where its files are.
        header: the model it is for.
        length: how many files it has.
        entries: those that stand, in order.
        after: per layer a checksum of the weight with them; empty where the last word was said
            without a model.
        metrics: what was measured, by edit id.
    """

    folder: Path
    header: Header
    length: int = 1
    entries: list[Entry] = field(default_factory=list)
    after: Mapping[int, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path, header: Header) -> Journal:
        """Begin one.

        Raises:
            ConfigError: it cannot be written, or the folder holds other files.
        """
        _refuse_strange(folder)
        journal = cls(folder, header, 0, after=dict(header.before))
        journal._append(HEADER, {"header": header.content()}, header.tensors())
        return journal

    @classmethod
    def read(cls, folder: Path) -> Journal:
        """Open the journal in a folder.

        Raises:
            PatchError: there is none, or a file of it is missing, damaged or malformed.
        """
        found = sorted(path for path in _listed(folder) if NUMBERED.fullmatch(path.name))
        for number, path in enumerate(found):
            if path.name != NAME.format(number):
                raise PatchError(f"{folder} lacks {NAME.format(number)}: put the file back")
        if not found:
            raise PatchError(f"no journal at {folder}: alphaedit edit journal={folder} keeps one")
        header = read_header(found[0])
        journal = cls(folder, header, len(found), after=dict(header.before))
        for path in found[1:]:
            with readable(path, f"{path} was removed while it was read"):
                journal._follow(path)
        return journal

    @classmethod
    def fitting(
        cls, folder: Path, lm: EditableModel, weights: Mapping[int, Tensor]
    ) -> Journal | None:
        """The journal in a folder, if it is one of this model's; nothing is written.

        Args:
            folder: of the journal.
            lm: the model.
            weights: of the layers that are to be edited, ``(d_out, d_in)``, before any edit.

        Returns:
            ``None`` where there is none, and one can be begun.

        Raises:
            PatchError: it is damaged, or another model's, other layers' or another dtype's.
            ConfigError: there is none, but other files.
        """
        if not cls.is_at(folder):
            _refuse_strange(folder)
            return None
        journal = cls.read(folder)
        try:
            journal.header.check_same(lm, weights)
        except PatchError as error:
            raise PatchError(f"journal={folder} is refused: {error}") from None
        return journal

    @property
    def patch(self) -> Patch:
        """All that stands."""
        return Patch(self.header, tuple(self.entries), self.after, self.metrics)

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Whether a folder holds a journal already.

        Raises:
            PatchError: it cannot be read.
        """
        return any(NUMBERED.fullmatch(path.name) for path in _listed(folder))

    def add(self, entry: Entry) -> None:
        """Keep a new entry.

        Raises:
            ConfigError: it cannot be written.
            PatchError: another process has added to this journal.
        """
        content, tensors = pack(entry)
        self._append(ENTRY, {"entry": content}, tensors)
        self.entries.append(entry)
        self.after = dict(entry.after)

    def take_back(self, undone: Undone, after: Mapping[int, str]) -> None:
        """Keep that edits were taken back; see `add`.

        Args:
            undone: which.
            after: per layer a checksum of the weight without them; empty without a model.
        """
        left = remaining(self.entries, undone.ids, undone.entries)
        facts = {"ids": list(undone.ids), "entries": list(undone.entries), "after": dict(after)}
        self._append(UNDO, facts, {})
        self.entries, self.after = left, dict(after)

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Keep what was measured, by edit id; see `add`."""
        self._append(METRICS, {"metrics": dict(metrics)}, {})
        self.metrics |= metrics

    def _append(self, kind: str, facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        path = self.folder / NAME.format(self.length)
        with _locked(self.folder):
            if path.exists():
                raise PatchError(f"another process has written to {self.folder}: open it again")
            content = {"kind": kind, "time": now(), "version": VERSION, **facts}
            write_artefact(path, tensors, content)
        self.length += 1

    def _follow(self, path: Path) -> None:
        """Do what one file says."""
        tensors, content = read_artefact(path, check=partial(_check, self.header))
        if content["kind"] == ENTRY:
            entry = _record(content).complete(tensors, "", self.header.places)
            check_names([*self.entries, entry])
            self.entries.append(entry)
            self.after = entry.after
        elif content["kind"] == UNDO:
            ids, names = (reading.sequence(content[name]) for name in ("ids", "entries"))
            self.entries = remaining(self.entries, ids, names)
            self.after = reading.labels(content["after"])
        else:
            self.metrics |= reading.mapping(content["metrics"])


def read_header(path: Path) -> Header:
    """Which model a journal, its first file, or a patch is for; the rest of it is not read.

    Raises:
        PatchError: it is missing or damaged, or neither a journal nor a patch.
    """
    file = path / NAME.format(0) if path.is_dir() else path
    with readable(file, f"no patch or journal at {path}: alphaedit edit makes both"):
        names = (FINGERPRINT, SAMPLE)
        tensors, content = read_artefact(file, lambda name: name in names, _check_header)
        return Header.parse(content["header"], tensors)


def _check(header: Header, content: dict[str, Any], claims: Mapping[str, Claim]) -> None:
    if content["kind"] == ENTRY:
        record = _record(content)
        record.check(claims, "", header.places)
        if record.names("") != set(claims):
            raise ValueError("it holds tensors that belong to no edit")
    elif content["kind"] not in (UNDO, METRICS):
        raise ValueError(f"its kind is {reading.label(content['kind'])!r}: update alphaedit-plugin")


def _check_header(content: dict[str, Any], claims: Mapping[str, Claim]) -> None:
    if content["kind"] not in (HEADER, KIND):
        raise ValueError(f"its kind is {reading.label(content['kind'])!r}, no journal or patch")
    check_claims(claims)


def _record(content: Mapping[str, Any]) -> Record:
    return unpack(reading.mapping(content["entry"]))


def _refuse_strange(folder: Path) -> None:
    strange = [path.name for path in _listed(folder)]
    foreign = [name for name in strange if name != LOCK and not name.endswith(".part")]
    if foreign:
        raise ConfigError(f"journal={folder} holds {foreign[0]}: give a folder of its own")


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PatchError(f"{folder} cannot be read: {error.strerror or error}") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out while a file is added, and clear away what a killed one left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter where files have no locks
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"journal={folder} cannot be written: {reason}") from None
    try:
        for unfinished in folder.glob("*.part"):
            unfinished.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
