"""What a source of data gives: requests to edit, and facts that must survive them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from alphaedit_plugin.common.registry import Registry
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.settings import Chosen

NEIGHBOURHOOD = "neighbourhood"  # the locality probe that specificity is measured on


@dataclass(frozen=True)
class Place:
    """Where a record stands.

    Attributes:
        record: its number in the file, from 0.
        line: where it starts in the file, from 1; ``None`` where the data have no file.
    """

    record: int
    line: int | None

    def __str__(self) -> str:
        return f"record {self.record}" + ("" if self.line is None else f" (line {self.line})")


@dataclass(frozen=True)
class Dropped(Place):
    """A record, or a part of one, that is not used, and why.

    Attributes:
        reason: for people.
    """

    reason: str


@dataclass(frozen=True)
class EditData:
    """Requests, and untouched facts.

    Attributes:
        requests: to edit, in order; neighbourhood prompts are a locality probe of theirs.
        retention: named probes of facts that no request is about.
        name: of the data, for the report: ``"zsre, zsre_mend_eval.json"``.
        conventions: what was chosen where a source can be read in more than one way, for the
            report: ``"target alt"``; empty where there is no choice.
        references: all reference texts of the data: the corpus that the inverse document
            frequencies of consistency are of. A request's own are in `Request.references`.
        dropped: records that are not among the requests.
        trimmed: parts of the requests' records that cannot be asked, and are left away.
        places: where each request stands in its file; empty where the data have no file.
        texts: held-out text that no projector or second moment has seen, for perplexity.
    """

    requests: tuple[Request, ...]
    retention: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))
    name: str = ""
    conventions: str = ""
    references: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    trimmed: tuple[Dropped, ...] = ()
    places: tuple[Place, ...] = ()
    texts: tuple[str, ...] = ()


DATA: Registry[Callable[[Chosen], EditData]] = Registry("data", "alphaedit_plugin.data.sets")
