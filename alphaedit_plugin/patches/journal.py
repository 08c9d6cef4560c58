"""A journal on disk: a folder to which files are only ever added.

File 0 says which model it is for. Each later one holds an entry, or takes earlier ones back, or
adds what was measured. Files are written whole or not at all, so a process that is killed loses
the batch in flight and nothing else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, PatchError, quoted
from alphaedit_plugin.common.files import locked
from alphaedit_plugin.editing.entry import Entry, now
from alphaedit_plugin.editing.undo import Undone, remaining
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.document import Document, check_names, readable, write_document
from alphaedit_plugin.patches.header import Header
from alphaedit_plugin.patches.patch import KIND, Patch

logger = logging.getLogger(__name__)

NAME = "{:08d}.safetensors"
NUMBERED = re.compile(r"\d{8}\.safetensors")
LOCK = "lock"
MAX_MAPPED = 20_000  # files at a time; Linux refuses a process more than 65,530 mappings
HEADER, ENTRY, UNDO, METRICS = "journal", "entry", "undo", "metrics"


@dataclass(frozen=True)
class TakenBack:
    """Edits and whole entries that no longer stand, and the weights' checksums without them."""

    ids: tuple[str, ...]
    entries: tuple[str, ...]
    after: Mapping[int, str]
    time: str = field(default_factory=now)


@dataclass(frozen=True)
class Measured:
    """What was measured, by edit id; JSON."""

    metrics: Mapping[str, Any]
    time: str = field(default_factory=now)


KINDS: dict[object, type[Entry] | type[TakenBack] | type[Measured]] = {
    ENTRY: Entry, UNDO: TakenBack, METRICS: Measured,
}  # fmt: skip


@dataclass
class Journal:
    """An open journal.

    Attributes:
        folder: where its files are.
        header: the model it is for.
        length: how many files it has.
        entries: those that stand, in order.
        after: per layer a checksum of the weight with them; empty where edits were taken back
            without a model.
        metrics: what was measured, by edit id.
    """

    folder: Path
    header: Header
    length: int = 0
    entries: list[Entry] = field(default_factory=list)
    after: Mapping[int, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path, header: Header) -> Journal:
        """Begin one.

        Raises:
            ConfigError: it cannot be written, or the folder holds other files.
        """
        _refuse_other_files(folder)
        journal = cls(folder, header, after=header.before)
        journal._append(HEADER, header)
        return journal

    @classmethod
    def read(cls, folder: Path) -> Journal:
        """Open the journal in a folder.

        Raises:
            PatchError: there is none, or a file of it is missing, damaged or malformed.
        """
        paths = sorted(path for path in _listed(folder) if NUMBERED.fullmatch(path.name))
        for number, path in enumerate(paths):
            if path.name != NAME.format(number):
                raise PatchError(f"{folder} lacks {NAME.format(number)}: put the file back")
        if not paths:
            raise PatchError(f"no journal at {folder}: alphaedit edit journal={folder} keeps one")
        header = read_header(paths[0])
        journal = cls(folder, header, len(paths), after=header.before)
        for number, path in enumerate(paths[1:], 1):
            with readable(path, f"{path} was removed while it was read"):
                journal._follow(Document(path, mapped=number < MAX_MAPPED))
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
        if not any(NUMBERED.fullmatch(path.name) for path in _listed(folder)):
            _refuse_other_files(folder)
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

    def add(self, entry: Entry) -> Entry:
        """Keep a new entry.

        Returns:
            The same with its tensors in the file rather than in memory.

        Raises:
            ConfigError: it cannot be written.
            PatchError: another process has added to this journal.
        """
        path = self._append(ENTRY, entry)
        try:  # it is kept already: whatever fails here is no reason to undo the batch
            stored = Document(path, mapped=self.length < MAX_MAPPED).read(Entry, self.header)
            entry = replace(entry, writes=stored.writes, past_keys=stored.past_keys)
        except (AlphaEditError, OSError, ValueError, RuntimeError, MemoryError) as error:
            logger.debug("%s stays in memory: %s", entry.name, error)
        self._do(entry)
        return entry

    def take_back(self, undone: Undone, after: Mapping[int, str]) -> None:
        """Keep that edits were taken back; see `add`.

        Args:
            undone: which.
            after: per layer a checksum of the weight without them; empty without a model.
        """
        taken = TakenBack(undone.ids, undone.entries, after)
        remaining(self.entries, taken.ids, taken.entries)  # refuses what cannot be taken back
        self._append(UNDO, taken)
        self._do(taken)

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Keep what was measured, by edit id; see `add`."""
        self._append(METRICS, Measured(metrics))
        self._do(Measured(metrics))

    def _append(self, kind: str, document: object) -> Path:
        path = self.folder / NAME.format(self.length)
        with _alone(self.folder):
            if path.exists():
                raise PatchError(f"another process has written to {self.folder}: open it again")
            write_document(path, kind, document)
        self.length += 1
        return path

    def _follow(self, document: Document) -> None:
        """Do what one file says."""
        if document.kind not in KINDS:
            raise ValueError(f"its kind is {quoted(document.kind)}: update alphaedit-plugin")
        self._do(document.read(KINDS[document.kind], self.header))

    def _do(self, document: Entry | TakenBack | Measured) -> None:
        if isinstance(document, Entry):
            check_names([*self.entries, document])
            self.entries.append(document)
            self.after = document.after
        elif isinstance(document, TakenBack):
            self.entries = remaining(self.entries, document.ids, document.entries)
            self.after = document.after
        else:
            self.metrics |= document.metrics


def read_header(path: Path) -> Header:
    """Which model a journal, its first file, or a patch is for; the rest of it is not read.

    Raises:
        PatchError: it is missing or damaged, or neither a journal nor a patch.
    """
    file = path / NAME.format(0) if path.is_dir() else path
    with readable(file, f"no patch or journal at {path}: alphaedit edit makes both"):
        document = Document(file)
        if document.kind not in (HEADER, KIND):
            raise PatchError(f"it is not a journal or patch, but of kind {quoted(document.kind)}")
        return document.header()


def _refuse_other_files(folder: Path) -> None:
    for path in _listed(folder):
        if path.name != LOCK and path.suffix != ".part":
            raise ConfigError(f"journal={folder} holds {path.name}: give an empty folder")


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PatchError(f"{folder} cannot be read: {error.strerror or error}") from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out while a file is added, and remove what a killed one left."""
    with locked(folder / LOCK):
        for unfinished in folder.glob("*.part"):
            unfinished.unlink(missing_ok=True)
        yield
