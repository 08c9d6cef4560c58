"""What a session did: the entries of its journal, and the edits in them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.data.request import Request

MIN_CERTAIN = 0.5  # from this probability on, no other token can be likelier


@dataclass(frozen=True)
class Write:
    """One delta and the layer it was added to.

    Attributes:
        layer: its number.
        delta: float32. A dense one (RECT's) is in main memory: 4096 × 14336 is 235 MB.
    """

    layer: int
    delta: Delta


@dataclass(frozen=True)
class Search:
    """How far the search for a request's target value came.

    Attributes:
        loss: what it minimises, at the value.
        probability: of the new answer with the value in place: the geometric mean over its tokens
            and all contexts.
    """

    loss: float
    probability: float

    @property
    def missed(self) -> bool:
        """Whether the model does not give the answer even with the value in place."""
        return self.probability < MIN_CERTAIN

    def unlearnt(self, accuracy: float) -> str | None:
        """Why an edit's answer is not given.

        Args:
            accuracy: the share of the answer's tokens that the edited model gives.

        Returns:
            ``"search"`` where no target value gives the answer; ``"write"`` where one does, but the
            edited weights do not produce it; ``None`` where the answer is given.
        """
        if accuracy == 1.0:
            return None
        return "search" if self.missed else "write"


@dataclass(frozen=True)
class Entry:
    """One line of the journal: a batch of requests, or the end of a run.

    Attributes:
        requests: what was asked; empty for the end of a run.
        writes: what was added, in order.
        past_keys: per layer ``(d_in, n)``, the batch's keys after its write; may be empty.
        failed: requests of the batch that could not be edited.
        searches: how far each request's target search came; empty if unknown.
        name: unique; `EditSession.undo` takes it.
        ids: one per request; unique.
        method: see `Recipe.description`; JSON.
        time: UTC, ISO 8601.
        version: of this package.
        before: per layer a checksum of the edited weight; empty where no journal is kept on disk.
        after: the same, with this entry's writes.
    """

    requests: tuple[Request, ...]
    writes: tuple[Write, ...]
    past_keys: Mapping[int, Tensor] = field(default_factory=dict)
    failed: tuple[Request, ...] = ()
    searches: tuple[Search, ...] = ()
    name: str = field(default_factory=lambda: new_name("b"))
    ids: tuple[str, ...] = ()
    method: Mapping[str, Any] = field(default_factory=dict)
    time: str = field(default_factory=lambda: now())
    version: str = VERSION
    before: Mapping[int, str] = field(default_factory=dict)
    after: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.requests):
            object.__setattr__(self, "ids", tuple(new_name("e") for _ in self.requests))

    @property
    def ends_run(self) -> bool:
        """Whether it reworks the sum of the earlier entries (PRUNE) and edits nothing itself."""
        return bool(self.writes) and not self.requests

    @property
    def separable(self) -> bool:
        """Whether each edit has its own columns in every write.

        ``Δ = R Kᵀ M`` of a least-squares method has one per request; methods that edit one by one
        have whole writes per request.
        """
        count = len(self.requests)
        factored = all(write.delta.right is not None for write in self.writes)
        if self.method.get("one_by_one"):
            return factored and count > 0 and len(self.writes) % count == 0
        ranks = {write.delta.left.shape[1] for write in self.writes}
        return bool(self.method.get("least_squares")) and factored and ranks <= {count}

    def without(self, ids: Collection[str]) -> Entry | None:
        """The entry without some of its edits; ``None`` if none remains.

        Raises:
            ValueError: some but not all of edits that share their writes.
        """
        columns = [column for column, edit in enumerate(self.ids) if edit not in ids]
        if len(columns) == len(self.ids):
            return self
        if not columns:
            return None
        if not self.separable:
            raise ValueError(f"the edits of {self.name} share their deltas")
        return replace(
            self,
            requests=tuple(self.requests[column] for column in columns),
            ids=tuple(self.ids[column] for column in columns),
            searches=tuple(self.searches[column] for column in columns if self.searches),
            writes=self._writes_of(columns),
            past_keys={layer: keys[:, columns] for layer, keys in self.past_keys.items()},
        )

    def _writes_of(self, columns: list[int]) -> tuple[Write, ...]:
        if self.method.get("one_by_one"):
            each = len(self.writes) // len(self.requests)
            return tuple(
                w for column in columns for w in self.writes[column * each : (column + 1) * each]
            )
        return tuple(Write(write.layer, write.delta.columns(columns)) for write in self.writes)


def new_name(kind: str) -> str:
    """A unique name; its first letter keeps it from looking like a number."""
    return kind + secrets.token_hex(5)


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
