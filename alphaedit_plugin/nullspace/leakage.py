"""What old keys see of edits, and how much of a text lies in the null space, where they write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment

VISIBLE = 1e-6  # a share of a delta that float32 weights may round to


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
        _share(inside.trace(), mean.trace()),
        _share((w @ inside * w).sum(), (w @ mean * w).sum()),
        moment.count,
    )


def seen_on(delta: Delta, moment: SecondMoment) -> float:
    """How much of a delta a text sees, whatever projector it was made with.

    ``√(d_in · tr(Δ C Δᵀ) / (‖Δ‖² tr C))``: the root mean square of ``‖Δ k‖ / (‖Δ‖ ‖k‖)`` over the
    text's keys, in units of what it is for a delta of random directions; 0 for a zero delta.

    Args:
        delta: ``Δ (d_out, d_in)``.
        moment: ``C`` of the text's keys, in the unedited model.
    """
    mean, norm = moment.mean, delta.norm
    if norm == 0 or mean.trace() <= 0:
        return 0.0
    if delta.right is None:
        rows, weights = delta.left.to(mean), None
    else:
        rows, weights = delta.right.T.to(mean), delta.left.to(mean)
    gram = rows @ mean @ rows.T
    energy = gram.trace() if weights is None else ((weights.T @ weights) * gram).sum()
    return float((len(mean) * energy / mean.trace()).clamp_min(0).sqrt()) / norm


def origins(projectors: Mapping[int, Projector]) -> str:
    """Whose ``U`` the figures of these layers are measured with."""
    found = dict.fromkeys(projector.origin for projector in projectors.values())
    return "‖ΔU‖/‖Δ‖ is measured with the projector " + "; ".join(found)


def rounding_note(shares: Sequence[tuple[float, float]], dtype: str) -> str | None:
    """Where weights round more than the projector leaves, what it does leave; else ``None``.

    Args:
        shares: ``‖Δ U‖ / ‖Δ‖`` of every projected delta, as it is in the weight, and as it was
            before it was rounded into it.
        dtype: of the weights.
    """
    if not shares:
        return None
    written, summed = (max(side) for side in zip(*shares, strict=True))
    if written < VISIBLE or summed > written / 2:
        return None
    return (
        f"‖ΔU‖/‖Δ‖ of projected edits is the rounding of {dtype} weights; before it, at most "
        f"{summed:.1e}"
    )


def _share(part: Tensor, whole: Tensor) -> float:
    return (part / whole).item() if whole > 0 else 0.0
