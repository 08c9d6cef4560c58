"""Which data are edited, and which records of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass
class DataConfig:
    """The ``data`` group.

    ``path``, ``target`` and ``references`` are options of some data sets; see `DataSet.options`.

    Attributes:
        name: a registered data set.
        shuffle_seed: shuffles the records; ``None`` keeps the file's order.
        unique: drop records that repeat or contradict an earlier one: see `Request.questions`.
        strict: refuse a record that cannot be read, edited or evaluated instead of dropping it.
        offset: skip this many usable records.
        limit: at most this many requests; ``None`` for all.
    """

    name: str = "default"
    path: str | None = None
    target: str | None = None
    references: str | None = None
    shuffle_seed: int | None = None
    unique: bool = True
    strict: bool = False
    offset: int = 0
    limit: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options that are set."""
        given = {"path": self.path, "target": self.target, "references": self.references}
        return {name: value for name, value in given.items() if value is not None}


class Chosen(Protocol):
    """The parts of a configuration that data sets read."""

    data: DataConfig
    seed: int
    model: Any
    compare: Any
