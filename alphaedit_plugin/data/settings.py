"""Which data are edited, and which records of them."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Protocol

from pydantic.dataclasses import dataclass

from alphaedit_plugin.common.validation import STRICT, Natural, Positive


@dataclass(config=STRICT)
class DataConfig:
    """The ``data`` group.

    Attributes:
        name: a registered data set.
        shuffle_seed: shuffles the records; ``None`` keeps the file's order.
        unique: drop records that repeat or contradict an earlier one: see `Request.questions`.
        strict: refuse a record that cannot be read, edited or evaluated instead of dropping it.
        known: keep only facts that the unedited model answers right, retention facts included.
        offset: skip this many usable records.
        limit: at most this many requests; ``None`` for all.
        options: the data set's own settings, see `DataSet.options`; on the command line and in
            YAML they stand beside the others: ``data.path=…``.
    """

    name: str = "default"
    shuffle_seed: Natural | None = None
    unique: bool = True
    strict: bool = False
    known: bool = False
    offset: Natural = 0
    limit: Positive | None = None
    options: dict[str, Any] = field(default_factory=dict)


class Chosen(Protocol):
    """The parts of a configuration that data sets read."""

    data: DataConfig
    seed: int
    model: Any

    @property
    def retention(self) -> int:
        """How many untouched facts of each kind are asked."""
