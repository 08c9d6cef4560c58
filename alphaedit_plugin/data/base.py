"""What a data set is, and what it gives: requests to edit, and facts that must survive them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.registry import Registry
from alphaedit_plugin.common.validation import validated
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.settings import Chosen, DataConfig

VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")  # what differs between reasons of one kind
MAX_REASONS = 5  # listed, the most frequent first
MAX_LOCATIONS = 5  # listed of each reason


@dataclass(frozen=True)
class Location:
    """Where a record is.

    Attributes:
        record: its number in the file, from 0.
        line: of the file, from 1; ``None`` where records are not lines.
    """

    record: int
    line: int | None = None

    def __str__(self) -> str:
        return f"record {self.record}" + ("" if self.line is None else f" (line {self.line})")


@dataclass(frozen=True)
class Dropped:
    """A record, or a part of one, that is not used, and why."""

    location: Location
    reason: str


@dataclass(frozen=True)
class EditData:
    """Requests, and untouched facts.

    Attributes:
        requests: to edit, in order.
        retention: named probes of facts that no request is about.
        name: for the report: ``"zsre, zsre_mend_eval.json"``.
        conventions: how a data set was read that can be read in several ways, for the report.
        references: all reference texts of the data: the corpus of consistency's inverse document
            frequencies. A request's own are in `Request.references`.
        dropped: records that gave no request.
        trimmed: parts of the requests' records that cannot be asked.
        locations: where each request is in its file; empty where there is no file.
        texts: held-out text that no second moment has seen, for perplexity.
    """

    requests: tuple[Request, ...]
    retention: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))
    name: str = ""
    conventions: str = ""
    references: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    trimmed: tuple[Dropped, ...] = ()
    locations: tuple[Location, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoOptions:
    """The options of a data set that has none."""


class DataSet(ABC):
    """A registered data set.

    Attributes:
        options: a dataclass of its own settings, which are ``data.…`` on the command line. It
            raises `ConfigError` for values that make no sense.
    """

    options: type[Any] = NoOptions

    @abstractmethod
    def load(self, options: Any, config: Chosen) -> EditData:
        """All of its requests and retained facts.

        Raises:
            ConfigError: something is missing or cannot be read.
        """


DATA: Registry[DataSet] = Registry("data", "alphaedit_plugin.data.sets")


def options_of(data: DataConfig) -> Any:
    """The data set's own settings, an instance of its `DataSet.options`.

    Raises:
        ConfigError: an unknown data set or option, or a value that makes no sense.
    """
    kind = DATA.get(data.name).options
    for name in data.options:
        if name not in (option.name for option in fields(kind)):
            raise ConfigError(f"data={data.name} does not read data.{name}: remove it")
    return validated(kind, data.options, "data.")


def summarize(dropped: Iterable[Dropped]) -> str:
    """One line: each reason, how often and where; of reasons that differ in names, the first."""
    groups: dict[str, list[Dropped]] = {}
    for one in dropped:
        groups.setdefault(VARYING.sub("…", one.reason), []).append(one)
    ordered = sorted(groups.values(), key=len, reverse=True)
    parts = []
    for group in ordered[:MAX_REASONS]:
        example = "" if len({one.reason for one in group}) == 1 else "such as: "
        locations = ", ".join(str(one.location) for one in group[:MAX_LOCATIONS])
        more = f" and {len(group) - MAX_LOCATIONS} more" if len(group) > MAX_LOCATIONS else ""
        parts.append(f"{len(group)} × {example}{group[0].reason} [{locations}{more}]")
    if len(ordered) > MAX_REASONS:
        parts.append(f"{sum(map(len, ordered[MAX_REASONS:]))} for other reasons")
    return "; ".join(parts)
