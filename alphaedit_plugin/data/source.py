"""A layout of files as a data set: find the file, read each record, say what cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphaedit_plugin.common.errors import ConfigError, RequestError
from alphaedit_plugin.common.validation import Text
from alphaedit_plugin.data.base import DataSet, Dropped, EditData, Location, summarize
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.records import read_records
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.settings import Chosen


@dataclass(frozen=True)
class FileOptions:
    """The options of a layout of files; those with more of them inherit from it.

    Attributes:
        path: the file.
    """

    path: Text | None = None

    @property
    def conventions(self) -> str:
        """How a file was read that can be read in several ways, for the report."""
        return ""


@dataclass(frozen=True)
class FileData(DataSet):
    """A layout of files.

    Attributes:
        file: the usual name of its file.
        url: where people get it; empty for their own.
        read: a record's requests, mostly one. It raises `RequestError` for a bad record.
        options: a dataclass; ``read`` gets an instance of it.
    """

    file: str
    url: str
    read: Callable[[Fields, Any], Sequence[Request]]
    options: type[FileOptions] = FileOptions

    @property
    def advice(self) -> str:
        """Where the file comes from."""
        return f"get {self.file} from {self.url}" if self.url else f"make {self.file}"

    def load(self, options: FileOptions, config: Chosen) -> EditData:
        """Read the file; what it lacks is dropped and trimmed, see `EditData`.

        Raises:
            ConfigError: the file is missing, of another kind, or has no usable record.
        """
        name = config.data.name
        if options.path is None:
            raise ConfigError(f"data={name} needs a file: set data.path=…; {self.advice}")
        path = Path(options.path).expanduser()
        requests: list[Request] = []
        locations: list[Location] = []
        dropped: list[Dropped] = []
        trimmed: list[Dropped] = []
        try:
            for location, content in read_records(path):
                try:
                    record = Fields.of(content, location.record)
                    more = self.read(record, options)
                except RequestError as error:
                    dropped.append(Dropped(location, str(error)))
                    continue
                requests += more
                locations += [location] * len(more)
                trimmed += [Dropped(location, part) for part in record.trimmed]
        except FileNotFoundError:
            raise ConfigError(
                f"no data at {path}: {self.advice} and put it there, or set data.path to where it "
                "is"
            ) from None
        if not requests:
            why = summarize(dropped) if dropped else "it holds no record"
            raise ConfigError(f"{path} has nothing to use as data={name}: {why}; {self.advice}")
        texts = (text for request in requests for text in request.references)
        return EditData(
            tuple(requests),
            name=f"{name}, {path.name}",
            conventions=options.conventions,
            references=tuple(dict.fromkeys(texts)),
            dropped=tuple(dropped),
            trimmed=tuple(trimmed),
            locations=tuple(locations),
        )
