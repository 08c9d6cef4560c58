"""The state of a run: pristine weights, key history, and a journal of factored deltas.

If a weight differs from its journal, something else has changed it: editing stops with an error.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import AlphaEditError, NumericalError
from alphaedit_plugin.data.conflicts import superseded
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.entry import Entry, Search, Write
from alphaedit_plugin.editing.undo import Undone, plan, remaining
from alphaedit_plugin.editing.weights import EditedWeights
from alphaedit_plugin.methods.past_keys import PastKeys
from alphaedit_plugin.models.editable import EditableModel

logger = logging.getLogger(__name__)


class Store(Protocol):
    """Keeps a session's operations as they happen; `patches.journal.Journal` does so on disk."""

    @property
    def after(self) -> Mapping[int, str]:
        """Per layer a checksum of the weight as the latest operation left it."""

    def add(self, entry: Entry) -> Entry:
        """Keep a new entry; returns the same, its tensors wherever they are kept now."""

    def take_back(self, undone: Undone, after: Mapping[int, str]) -> None:
        """Keep that edits were undone, which left the weights at these checksums."""

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Keep what was measured, by edit id."""


class EditSession:
    """All that editing one model has accumulated; nothing of it lives anywhere else.

    Args:
        lm: the model; its weights as they are now count as pristine.
        layers: the layers that may be edited.

    Attributes:
        store: keeps each operation as it happens; `patches.sessions.open_session` sets one.
        journal: the entries that stand, in order.
        metrics: what was measured, by edit id.

    Raises:
        ModelError: a layer that is not there, or whose weight is not finite.
    """

    def __init__(self, lm: EditableModel, layers: Sequence[int]) -> None:
        self._weights = EditedWeights(lm, layers)
        self.lm = lm
        self.layers = tuple(layers)
        self.journal: list[Entry] = []
        self.metrics: dict[str, Any] = {}
        self._past: dict[int, PastKeys] = {}
        self._open: list[Write] | None = None
        self._before: dict[int, Tensor | None] = {}
        self.store: Store | None = None

    def checksums(self) -> dict[int, str]:
        """Per layer a hash of the weight as it is now."""
        return self._weights.checksums()

    def pristine(self, layer: int) -> Tensor:
        """``W0 (d_out, d_in)`` in its own dtype."""
        return self._weights.pristine[layer]

    def accumulated(self, layer: int) -> Tensor:
        """``Σ Δ (d_out, d_in)``, in float32 or finer, the writes of an open batch included."""
        return self._weights.total(layer)

    def past(self, layer: int, lost: Sequence[Collection[int]] | None = None) -> PastKeys:
        """``Kp``: keys of all earlier batches, taken after their write, with their factors.

        Args:
            layer: whose keys.
            lost: of each entry, the edits whose keys do not count; by default those that a later
                one contradicted.
        """
        past = self._past.setdefault(layer, PastKeys())
        lost = superseded(self.batches) if lost is None else lost
        entries = [(e, n) for e, n in zip(self.journal, lost, strict=True) if layer in e.past_keys]
        past.hold([e.past_keys[layer] for e, _ in entries], [n for _, n in entries])
        return past

    def change(self, layer: int) -> Delta:
        """``W − W0 (d_out, d_in)`` float64, the rounding of the weight included."""
        return Delta(self.lm.weight(layer).double() - self.pristine(layer).double())

    @property
    def batches(self) -> list[tuple[Request, ...]]:
        """What was asked, by the entry of the journal that it is in."""
        return [entry.requests for entry in self.journal]

    @property
    def requests(self) -> list[Request]:
        """Every request applied so far, in order."""
        return [request for batch in self.batches for request in batch]

    @property
    def standing(self) -> list[Request]:
        """`requests` without those that a later one contradicted."""
        pairs = zip(self.batches, superseded(self.batches), strict=True)
        return [r for batch, lost in pairs for n, r in enumerate(batch) if n not in lost]

    @property
    def ids(self) -> list[str]:
        """The id of each of `requests`."""
        return [own for entry in self.journal for own in entry.ids]

    @property
    def ended(self) -> bool:
        """Whether the latest entry is the end of a run (PRUNE's)."""
        return bool(self.journal) and self.journal[-1].ends_run

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Open a batch: `write` works inside, `commit` ends it, and an error undoes all of it.

        Raises:
            AlphaEditError: one is open already; or see `check_weights`.
        """
        if self._open is not None:
            raise AlphaEditError("a batch is being written already in this session")
        self.check_weights()
        self._open = []
        try:
            with torch.inference_mode(False), torch.no_grad():
                yield
        finally:
            if self._open:
                for layer, total in self._before.items():
                    self._weights.restore(layer, total)
            self._open, self._before = None, {}

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """Inside, the model before any edit; afterwards as it is now, bit for bit.

        Raises:
            AlphaEditError: a batch is being written; or see `check_weights`.
        """
        if self._open is not None:
            raise AlphaEditError("a batch is being written: end it first")
        self.check_weights()
        try:
            with torch.inference_mode(False), torch.no_grad():
                self._weights.replay(())
            yield
        finally:
            self._replay()

    def write(self, layer: int, delta: Delta) -> None:
        """Add ``delta`` to the weight of ``layer``, inside an open batch.

        Raises:
            NumericalError: the delta is not finite, or the weight with it.
        """
        if self._open is None:
            raise AlphaEditError("session.write needs an open session.batch()")
        rounded = delta.to(torch.float32)
        if not rounded.is_finite:
            raise NumericalError(
                f"the delta for layer {layer} is not finite: nothing of this batch was kept; "
                "look at the second moment, the learning rate and the weights' dtype"
            )
        if layer not in self._before:
            self._before[layer] = self._weights.copy_of_total(layer)
        # A dense delta is as large as the weight: it waits in main memory.
        stored = rounded if rounded.right is not None else rounded.to("cpu")
        self._open.append(Write(layer, stored))
        self._weights.add(Write(layer, rounded))

    def commit(
        self,
        requests: Sequence[Request] = (),
        past_keys: Mapping[int, Tensor] | None = None,
        method: Mapping[str, Any] | None = None,
        failed: Sequence[Request] = (),
        searches: Sequence[Search] = (),
    ) -> Entry:
        """End the open batch: what was written becomes one entry of the journal.

        Args:
            requests: what was asked.
            past_keys: per layer ``(d_in, n)``, the batch's keys after its write.
            method: what made it; JSON.
            failed: requests of the batch that could not be edited and were left out.
            searches: how far each request's target search came.

        Raises:
            AlphaEditError: no batch is open.
            ConfigError: the journal on disk cannot be written; the batch is then undone.
            PatchError: another process has written to it; the batch is undone, too.
        """
        if self._open is None:
            raise AlphaEditError("session.commit needs an open session.batch()")
        writes = tuple(self._open)
        entry = Entry(
            tuple(requests), writes, past_keys or {}, tuple(failed), tuple(searches),
            method=method or {},
        )  # fmt: skip
        if self.store is not None:
            entry = replace(entry, before=self.store.after, after=self.checksums())
            entry = self.store.add(entry)
        self.journal.append(entry)
        self._open, self._before = [], {}
        return entry

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Keep what was measured, by edit id; JSON.

        Raises:
            AlphaEditError: as in `commit`.
        """
        if self.store is not None and metrics:
            self.store.note(metrics)
        self.metrics |= metrics

    def undo(self, what: int | str = 1, *, force: bool = False) -> Undone:
        """Undo edits.

        The weights are then bit for bit what they would be if these edits' deltas had never been
        added. For the latest entries that is what they were before. For an earlier one, a warning
        and the result say how many later edits were computed with it in place.

        Args:
            what: how many of the latest entries; or the id of an edit, or the name of an entry.
            force: even where something else has changed the weights since; that change is lost.

        Raises:
            AlphaEditError: the journal is shorter than that or has no such edit, or a batch is
                being written; or, without ``force``, see `check_weights`.
        """
        if self._open is not None:
            raise AlphaEditError("a batch is being written: end it first")
        undone = plan(self.journal, what)
        if not force:
            self.check_weights()
        before, self.journal = self.journal, remaining(self.journal, undone.ids, undone.entries)
        try:
            self._replay()
            if self.store is not None and (undone.ids or undone.entries):
                self.store.take_back(undone, self.checksums())
        except BaseException:
            self.journal = before
            self._replay()
            raise
        for note in undone.notes:
            logger.warning("%s", note)
        return undone

    def reset(self) -> None:
        """Undo everything, whatever wrote it: the weights are bit for bit the pristine ones."""
        self.undo(len(self.journal), force=True)

    def check_weights(self) -> None:
        """Refuse to go on where something else has changed a weight: it would be overwritten.

        Raises:
            AlphaEditError: a weight is not what this session left there.
        """
        self._weights.check()

    def adopt(self, entries: Sequence[Entry], metrics: Mapping[str, Any]) -> None:
        """Apply an earlier session's entries in one without edits; on any error, none of them.

        Raises:
            NumericalError: a weight would overflow.
        """
        try:
            self.journal = list(entries)
            self._replay()
        except BaseException:
            self.journal = []
            self._replay()
            raise
        self.metrics |= metrics

    def _replay(self) -> None:
        """Make totals and weights what the journal says."""
        with torch.inference_mode(False), torch.no_grad():
            self._weights.replay(write for entry in self.journal for write in entry.writes)
