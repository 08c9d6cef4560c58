"""What is chosen of data: which, read how, and which records of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol


class Target(str, Enum):
    """Which of a zsRE record's answers is edited in."""

    alt = "alt"
    answers = "answers"


@dataclass
class DataConfig:
    """Which facts are edited.

    Attributes:
        name: a registered kind of data.
        path: its file, where it has one.
        target: which answer of a zsRE record is edited in; zsRE needs a choice.
        references: CounterFact's reference texts (``attribute_snippets.json``), for consistency.
        shuffle_seed: shuffles the records; ``None`` leaves them as they are.
        unique: drop records that ask again what an earlier one asks: see `conflicts.questions`.
        strict: refuse a record that cannot be read, edited or asked, rather than drop it.
        offset: skip so many usable records.
        limit: at most this many requests; ``None`` for all.
    """

    name: str = "default"
    path: str | None = None
    target: Target | None = None
    references: str | None = None
    shuffle_seed: int | None = None
    unique: bool = True
    strict: bool = False
    offset: int = 0
    limit: int | None = None


class Chosen(Protocol):
    """The parts of a configuration that a source of data reads."""

    data: DataConfig
    seed: int
    model: Any
    compare: Any
