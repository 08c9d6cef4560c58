"""A registered layout of files: find the file, read each record, say what could not be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alphaedit_plugin.common.errors import ConfigError, RequestError
from alphaedit_plugin.data.base import DATA, Dropped, EditData, Place
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.notes import summarise
from alphaedit_plugin.data.records import Broken, read_records
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.settings import Chosen, DataConfig

logger = logging.getLogger(__name__)

Convert = Callable[[Fields], Sequence[Request]]
OPTIONS = ("path", "target", "references")  # of `DataConfig`, that only some data read


@dataclass(frozen=True)
class Reading:
    """How a file is read, once its settings are known.

    Attributes:
        convert: a record's requests: mostly one. It raises `RequestError` for a bad record.
        conventions: see `EditData.conventions`.
    """

    convert: Convert
    conventions: str = ""


@dataclass(frozen=True)
class FileData:
    """A layout of files, to register under its name.

    Attributes:
        name: the one it is registered by.
        file: the usual name of its file.
        url: where people get it; empty for their own.
        prepare: the settings' way to read it. It raises `ConfigError` for bad settings.
        marks: fields by which a record of it is known, to name it where another was chosen.
        options: the settings of `OPTIONS` that it reads, besides ``path``.
    """

    name: str
    file: str
    url: str
    prepare: Callable[[DataConfig], Reading]
    marks: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        """Where the file comes from."""
        return f"get {self.file} from {self.url}" if self.url else f"make {self.file}"

    def __call__(self, config: Chosen) -> EditData:
        """Read the file of ``config.data.path``.

        Raises:
            ConfigError: the file is missing, of another kind, or has no record that can be used;
                or a setting is missing or not read.
        """
        refuse_unread(config.data, ("path", *self.options))
        if config.data.path is None:
            raise ConfigError(f"data={self.name} needs a file: set data.path=…; {self.advice}")
        return self.load(Path(config.data.path).expanduser(), self.prepare(config.data))

    def load(self, path: Path, reading: Reading) -> EditData:
        """Read one file.

        Raises:
            ConfigError: it is missing, of another kind, or has no record that can be used.
        """
        found = _Found()
        try:
            for place, content in read_records(path):
                found.add(place, content, reading.convert)
        except FileNotFoundError:
            raise ConfigError(
                f"no data at {path}: {self.advice} and put it there, or set "
                "data.path to where it is"
            ) from None
        if not found.requests:
            why = summarise(found.dropped) if found.dropped else "it holds no record"
            raise ConfigError(
                f"{path} has nothing to use as data={self.name}: {why}; "
                + (_looks_like(path) or self.advice)
            )
        references = (text for request in found.requests for text in request.references)
        return EditData(
            tuple(found.requests),
            name=f"{self.name}, {path.name}",
            conventions=reading.conventions,
            references=tuple(dict.fromkeys(references)),
            dropped=tuple(found.dropped),
            trimmed=tuple(found.trimmed),
            places=tuple(found.places),
        )


def _looks_like(path: Path) -> str:
    """The layouts whose marks the file's first record has; empty where there are none."""
    _, first = next(iter(read_records(path)), (None, None))
    keys = set(first) if isinstance(first, dict) else set()
    sources = [source for source in map(DATA.get, DATA) if isinstance(source, FileData)]
    fitting = [f"data={one.name}" for one in sources if one.marks and keys.issuperset(one.marks)]
    return f"it looks like {' or '.join(fitting)}" if fitting else ""


class _Found:
    """What a file gave so far."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.places: list[Place] = []
        self.dropped: list[Dropped] = []
        self.trimmed: list[Dropped] = []

    def add(self, place: Place, content: object, convert: Convert) -> None:
        """Take a record's requests, or note why there are none."""
        try:
            if isinstance(content, Broken):
                raise RequestError(content.reason)
            record = Fields.of(content, place.record)
            requests = convert(record)
        except RequestError as error:
            self.dropped.append(Dropped(place.record, place.line, str(error)))
            return
        self.requests += requests
        self.places += [place] * len(requests)
        self.trimmed += [Dropped(place.record, place.line, what) for what in record.trimmed]


def refuse_unread(data: DataConfig, read: Sequence[str]) -> None:
    """Refuse a setting that the chosen data do not read, rather than ignore it.

    Raises:
        ConfigError: which one is set.
    """
    for option in _unread(data, read):
        what = "has no file" if option == "path" else f"does not read data.{option}"
        raise ConfigError(f"data={data.name} {what}: leave data.{option} away")


def _unread(data: DataConfig, read: Sequence[str]) -> Iterator[str]:
    return (name for name in OPTIONS if name not in read and getattr(data, name) is not None)
