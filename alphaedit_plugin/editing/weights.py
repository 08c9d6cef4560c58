"""Weights under edit: always ``W0 + Σ Δ``, summed in float32 and rounded once.

So half-precision weights accumulate no rounding, and the same deltas, added in the same order, give
the same bits, whether others were added and undone in between or they come from a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import AlphaEditError, ModelError, NumericalError
from alphaedit_plugin.common.tensor_file import checksums
from alphaedit_plugin.editing.entry import Write
from alphaedit_plugin.models.editable import EditableModel

CONTIGUOUS = torch.contiguous_format


class EditedWeights:
    """The edited weights of one model: pristine, and the sum of deltas.

    Args:
        lm: the model; its weights as they are now count as pristine.
        layers: those that may be edited.

    Attributes:
        pristine: ``W0 (d_out, d_in)`` of each layer, in its own dtype.

    Raises:
        ModelError: a layer that is not there, or whose weight is not finite.
    """

    def __init__(self, lm: EditableModel, layers: Sequence[int]) -> None:
        lm.check_layers(layers)
        for layer in layers:
            if not torch.isfinite(lm.weight(layer)).all():
                raise ModelError(f"{lm.weight_name(layer)} is not finite: load the model again")
        self._lm = lm
        self.pristine = {layer: lm.weight(layer).clone() for layer in layers}
        self._total: dict[int, Tensor] = {}

    def total(self, layer: int) -> Tensor:
        """``Σ Δ (d_out, d_in)``, in float32 or finer."""
        if layer not in self._total:
            pristine = self.pristine[layer]
            precision = torch.promote_types(torch.float32, pristine.dtype)
            with torch.inference_mode(False):  # or it could not be added to outside of one
                self._total[layer] = torch.zeros_like(pristine, dtype=precision)
        return self._total[layer]

    def copy_of_total(self, layer: int) -> Tensor | None:
        """For `restore`; ``None`` where nothing was added."""
        return self._total[layer].clone() if layer in self._total else None

    def add(self, write: Write) -> None:
        """Add one delta.

        Raises:
            NumericalError: the weight overflows its dtype; it has been written then.
        """
        self._sum(write)
        self._store(write.layer)
        self._check_finite(write.layer)

    def restore(self, layer: int, total: Tensor | None) -> None:
        """Restore what `copy_of_total` gave; subtracting would round."""
        if total is None:
            self._total.pop(layer, None)
        else:
            self._total[layer] = total
        self._store(layer)

    def replay(self, writes: Iterable[Write]) -> None:
        """Make the weights ``W0`` with these deltas added, whatever they are now.

        Raises:
            NumericalError: a weight overflows its dtype; they have been written then.
        """
        self._total = {}
        for write in writes:
            self._sum(write)
        for layer in self.pristine:
            self._store(layer)
        for layer in self._total:
            self._check_finite(layer)

    def check(self) -> None:
        """Refuse weights that differ from what was stored here.

        Raises:
            AlphaEditError: naming the first.
        """
        for layer in self.pristine:
            weight = self._lm.weight(layer)
            if not torch.equal(self._rendered(layer).to(weight), weight):
                raise AlphaEditError(
                    f"{self._lm.weight_name(layer)} was changed by something other than this "
                    "session: start a new editor to edit the model as it is, or call "
                    "session.reset() to put the pristine weights back"
                )

    def checksums(self) -> dict[int, str]:
        """Per layer a hash of the weight as it is now."""
        return checksums({layer: self._lm.weight(layer) for layer in self.pristine})

    def _sum(self, write: Write) -> None:
        total = self.total(write.layer)
        placed = write.delta.to(total.device, total.dtype)
        if placed.right is None:
            total.add_(placed.left)
        else:  # a product's rounding depends on layout and alignment
            left, right = (
                part.clone(memory_format=CONTIGUOUS) for part in (placed.left, placed.right)
            )
            total.addmm_(left, right.T)

    def _store(self, layer: int) -> None:
        self._lm.weight(layer).copy_(self._rendered(layer))

    def _rendered(self, layer: int) -> Tensor:
        """``W0 + Σ Δ``; rounded to the dtype of ``W0`` where it is stored."""
        pristine = self.pristine[layer]
        return pristine + self._total[layer] if layer in self._total else pristine

    def _check_finite(self, layer: int) -> None:
        weight = self._lm.weight(layer)
        if not torch.isfinite(weight).all():
            raise NumericalError(
                f"the edited weight of layer {layer} overflows {weight.dtype}: nothing of this "
                "batch was kept; edit in bfloat16 or float32"
            )
