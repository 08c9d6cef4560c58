"""What a session did: its entries, the edits in them, and what was used."""

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

LIKELIEST = 0.5  # of this probability on, a token is the likeliest, whatever the others have


@dataclass(frozen=True)
class Write:
    """One delta and the layer it was added to.

    Attributes:
        layer: its number.
        delta: float32. A dense one (RECT's) rests in main memory: 4096 × 14336 is 235 MB.
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
        """Whether even the value itself does not make the model give the answer."""
        return self.probability < LIKELIEST

    def unlearnt(self, accuracy: float) -> str | None:
        """Where an edit went astray after which this share of the answer's tokens is given.

        Returns:
            ``"search"`` where no target value gives the answer, ``"write"`` where there is one, but
            the weights that were written do not put it out; ``None`` where the answer is given.
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
        failed: requests of the batch that could not be edited and were left out.
        searches: how far each request's target search came; empty where that is not known.
        name: unique; `EditSession.undo` takes it.
        ids: of the edits, one per request; unique.
        method: what made it, see `Recipe.description`; JSON.
        time: when it was done, UTC, ISO 8601.
        version: of this package then.
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
        """Whether it reworks the sum of what came before (PRUNE), and edits nothing itself."""
        return bool(self.writes) and not self.requests

    @property
    def separable(self) -> bool:
        """Whether each edit has columns of its own in every write.

        ``Δ = R Kᵀ M`` of a least squares has one per request, and request ``i`` alone is written
        by column ``i``; methods that edit one by one have whole writes of their own.
        """
        count = len(self.requests)
        factored = all(write.delta.right is not None for write in self.writes)
        if self.method.get("one_by_one"):
            return factored and count > 0 and len(self.writes) % count == 0
        ranks = {write.delta.left.shape[1] for write in self.writes}
        return bool(self.method.get("least_squares")) and factored and ranks <= {count}

    def without(self, ids: Collection[str]) -> Entry | None:
        """What is left when some edits are taken out; ``None`` if nothing is.

        Raises:
            ValueError: some but not all of edits that share their writes.
        """
        kept = [place for place, own in enumerate(self.ids) if own not in ids]
        if len(kept) == len(self.ids):
            return self
        if not kept:
            return None
        if not self.separable:
            raise ValueError(f"the edits of {self.name} share their deltas")
        return replace(
            self,
            requests=tuple(self.requests[place] for place in kept),
            ids=tuple(self.ids[place] for place in kept),
            searches=tuple(self.searches[place] for place in kept if self.searches),
            writes=self._writes_of(kept),
            past_keys={layer: keys[:, kept] for layer, keys in self.past_keys.items()},
        )

    def _writes_of(self, kept: list[int]) -> tuple[Write, ...]:
        if self.method.get("one_by_one"):
            each = len(self.writes) // len(self.requests)
            return tuple(
                w for place in kept for w in self.writes[place * each : (place + 1) * each]
            )
        return tuple(Write(write.layer, write.delta.columns(kept)) for write in self.writes)


def new_name(kind: str) -> str:
    """A name that nothing else has; its first letter keeps it from looking like a number."""
    return kind + secrets.token_hex(5)


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
