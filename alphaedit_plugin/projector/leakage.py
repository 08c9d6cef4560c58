"""How much of what a layer does with a text lies in the null space, where edits write."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alphaedit_plugin.projector.projector import Projector
from alphaedit_plugin.statistics import SecondMoment


@dataclass(frozen=True)
class Leakage:
    """How much of what a layer does with a text lies in the null space, where edits write.

    Attributes:
        keys: ``E‖P k‖² / E‖k‖²``.
        outputs: ``E‖W P k‖² / E‖W k‖²``.
        tokens: keys that the means are over.
    """

    keys: float
    outputs: float
    tokens: int


def leakage_on(projector: Projector, moment: SecondMoment, weight: Tensor) -> Leakage:
    """Measure it on any text, given that text's second moment.

    Both shares are traces: ``E‖A k‖² = tr(A C Aᵀ)``.

    Args:
        projector: of the layer.
        moment: ``C`` of the text's keys, in the model as it is.
        weight: ``W (d_out, d_in)``.
    """
    mean = moment.mean
    half = projector.apply(mean)  # P C
    inside = projector.apply(half.T)  # P C P
    w = weight.to(mean)
    return Leakage(
        (inside.trace() / mean.trace()).item(),
        ((w @ inside * w).sum() / (w @ mean * w).sum()).item(),
        moment.count,
    )
