"""The state of a run: pristine weights, key history, and a journal of factored deltas.

A weight is always ``W0 + Σ Δ``, summed from the journal in float32 and rounded once, so that
half-precision weights gather no rounding and undoing restores them bit for bit. A weight that is
anything else was changed by someone else: that is refused, never overwritten unasked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.delta import Delta
from alphaedit_plugin.errors import AlphaEditError, ModelError, NumericalError
from alphaedit_plugin.history import PastKeys
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.request import Request


@dataclass(frozen=True)
class Write:
    """One delta and the layer it was added to.

    A dense delta (RECT's; PRUNE's, once a run) rests in main memory: float32 of 4096 × 14336 is
    235 MB. Sparse storage would not pay: of RECT's 40 % it takes 188 MB at best (a value and an
    int32 column each), and a projected delta is dense again.
    """

    layer: int
    delta: Delta


@dataclass(frozen=True)
class Entry:
    """One line of the journal: a batch of requests, or the end of a run.

    Attributes:
        requests: what was asked; empty for the end of a run.
        writes: what was added, in order.
        past_keys: per layer ``(d_in, n)``, the batch's keys after its write; may be empty.
    """

    requests: tuple[Request, ...]
    writes: tuple[Write, ...]
    past_keys: Mapping[int, Tensor]


class EditSession:
    """All that editing one model has accumulated; nothing of it lives anywhere else.

    Args:
        view: the model; its weights as they are now count as pristine.
        layers: the layers that may be edited.

    Raises:
        ModelError: a layer that is not there, or whose weight is not finite.
    """

    def __init__(self, view: EditableModel, layers: Sequence[int]) -> None:
        view.check_layers(layers)
        for layer in layers:
            if not torch.isfinite(view.weight(layer)).all():
                raise ModelError(f"{view.weight_name(layer)} is not finite: load the model again")
        self.view = view
        self.layers = tuple(layers)
        self.journal: list[Entry] = []
        self._pristine = {layer: view.weight(layer).clone() for layer in layers}
        self._total: dict[int, Tensor] = {}
        self._past: dict[int, PastKeys] = {}
        self._open: list[Write] | None = None
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def pristine(self, layer: int) -> Tensor:
        """``W0 (d_out, d_in)`` in its own dtype."""
        return self._pristine[layer]

    def accumulated(self, layer: int) -> Tensor:
        """``Σ Δ (d_out, d_in)``, in float32 or finer, the writes of an open batch included."""
        if layer not in self._total:
            precision = torch.promote_types(torch.float32, self._pristine[layer].dtype)
            with torch.inference_mode(False):  # or it could not be added to outside of one
                self._total[layer] = torch.zeros_like(self._pristine[layer], dtype=precision)
        return self._total[layer]

    def past(self, layer: int) -> PastKeys:
        """``Kp``: keys of all earlier batches, taken after their write, and what grew from them."""
        grown = self._past.setdefault(layer, PastKeys())
        grown.blocks = tuple(entry.past_keys[layer] for entry in self.journal if entry.past_keys)
        return grown

    def change(self, layer: int) -> Delta:
        """``W − W0 (d_out, d_in)`` float64: what the model really has, its rounding included."""
        return Delta(self.view.weight(layer).double() - self._pristine[layer].double())

    @property
    def requests(self) -> list[Request]:
        """Every request applied so far, in order."""
        return [request for entry in self.journal for request in entry.requests]

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Open a batch: `write` works inside, `commit` ends it, and an error takes it all back.

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
                self._take_back()
            self._open, self._before = None, {}

    def write(self, layer: int, delta: Delta) -> None:
        """Add ``delta`` to the weight of ``layer``, inside an open batch.

        Raises:
            NumericalError: the delta is not finite, or the weight with it.
        """
        if self._open is None:
            raise AlphaEditError("session.write needs an open session.batch()")
        kept = delta.to(torch.float32)
        if not kept.is_finite:
            raise NumericalError(
                f"the delta for layer {layer} is not finite: nothing of this batch was kept; "
                "look at the second moment, the learning rate and the weights' dtype"
            )
        if layer not in self._before:
            self._before[layer] = (self.view.weight(layer).clone(), self.accumulated(layer).clone())
        self._open.append(Write(layer, kept if kept.right is not None else kept.to("cpu")))
        self._add(layer, kept)
        self._store(layer)
        weight = self.view.weight(layer)
        if not torch.isfinite(weight).all():
            raise NumericalError(
                f"the edited weight of layer {layer} overflows {weight.dtype}: nothing of this "
                "batch was kept; edit in bfloat16 or float32"
            )

    def commit(
        self, requests: Sequence[Request] = (), past_keys: Mapping[int, Tensor] | None = None
    ) -> Entry:
        """End the open batch: what was written becomes one entry of the journal."""
        if self._open is None:
            raise AlphaEditError("session.commit needs an open session.batch()")
        entry = Entry(tuple(requests), tuple(self._open), past_keys or {})
        self.journal.append(entry)
        self._open, self._before = [], {}
        return entry

    def undo(self, count: int = 1, *, force: bool = False) -> None:
        """Take back the last ``count`` entries; the weights are then bit for bit as before them.

        Args:
            count: how many.
            force: also where something else has changed the weights since, which is lost.

        Raises:
            AlphaEditError: the journal is shorter than that, or a batch is being written; or,
                without ``force``, see `check_weights`.
        """
        if self._open is not None:
            raise AlphaEditError("a batch is being written: end it before taking back others")
        if not isinstance(count, int) or not 0 <= count <= len(self.journal):
            raise AlphaEditError(
                f"cannot undo {count} entries: the journal has {len(self.journal)}"
            )
        if not force:
            self.check_weights()
        del self.journal[len(self.journal) - count :]
        self._replay()

    def reset(self) -> None:
        """Take back everything, whoever wrote it: the weights are bit for bit the pristine ones."""
        self.undo(len(self.journal), force=True)

    def check_weights(self) -> None:
        """Refuse to go on where something else has changed a weight, which would be overwritten.

        Raises:
            AlphaEditError: a weight is not what this session left there.
        """
        for layer in self.layers:
            weight = self.view.weight(layer)
            if not torch.equal(self._rendered(layer).to(weight), weight):
                raise AlphaEditError(
                    f"{self.view.weight_name(layer)} was changed by something other than this "
                    "session: start a new editor to edit the model as it is, or call "
                    "session.reset() to put the pristine weights back"
                )

    def _take_back(self) -> None:
        """Put back what the open batch found: copies, so that no rounding can differ."""
        for layer, (weight, total) in self._before.items():
            self.view.weight(layer).copy_(weight)
            self._total[layer] = total

    def _replay(self) -> None:
        """Make totals and weights what the journal says."""
        self._total = {}
        for entry in self.journal:
            for write in entry.writes:
                self._add(write.layer, write.delta)
        for layer in self.layers:
            self._store(layer)

    def _add(self, layer: int, delta: Delta) -> None:
        total = self.accumulated(layer)
        placed = delta.to(total.device, total.dtype)
        if placed.right is None:
            total.add_(placed.left)
        else:
            total.addmm_(placed.left, placed.right.T)

    def _store(self, layer: int) -> None:
        """Render ``W0 + Σ Δ`` into the model."""
        self.view.weight(layer).copy_(self._rendered(layer))

    def _rendered(self, layer: int) -> Tensor:
        """``W0 + Σ Δ``; rounded to the dtype of ``W0`` by whoever stores it."""
        pristine = self._pristine[layer]
        return pristine + self._total[layer] if layer in self._total else pristine
