"""A delta as the product of two matrices as thin as its rank allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta


@dataclass(frozen=True)
class LowRank:
    """``Δ ≈ up down``.

    Attributes:
        up: ``(d_out, r)`` float32.
        down: ``(r, d_in)`` float32.
        full_rank: numerical rank of ``Δ``, see `factorise`.
        error: ``‖up down − Δ‖ / ‖Δ‖`` of what the truncation leaves out; 0 where it leaves out
            nothing above rounding.
    """

    up: Tensor
    down: Tensor
    full_rank: int
    error: float

    @property
    def rank(self) -> int:
        """``r``."""
        return self.up.shape[1]


def factorise(delta: Delta, rank: int | None = None) -> LowRank:
    """Factor ``Δ`` by its singular values, each side given the square root of them.

    A factored delta stays so: with ``Δ = L Rᵀ``, ``L = Q₁ S₁`` and ``R = Q₂ S₂``, its singular
    values are those of the small ``S₁ S₂ᵀ``. Numerical rank counts those above ``σ₁ ε max(d_out,
    d_in)``, ε being float32's, in which deltas are kept; and above the noise of their own sum in
    float64, where deltas cancel.

    Args:
        delta: ``(d_out, d_in)``; see `Delta.joined` for the sum of several.
        rank: at most so many dimensions, the largest ones; ``None`` for all.
    """
    left, values, right = _svd(delta)
    d_out, d_in = left.shape[0], right.shape[0]
    scale = delta.left.double().norm()
    if delta.right is not None:
        scale = scale * delta.right.double().norm()
    rounding, noise = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps
    floor = max(d_out, d_in) * torch.maximum(values[:1].sum() * rounding, scale * noise)
    full = int((values > floor).sum())
    kept = full if rank is None else min(rank, full)
    lost = values[kept:full].norm() / values.norm().clamp_min(torch.finfo(values.dtype).tiny)
    root = values[:kept].sqrt()
    up, down = left[:, :kept] * root, root[:, None] * right[:, :kept].T
    return LowRank(up.float().contiguous(), down.float().contiguous(), full, lost.item())


def _svd(delta: Delta) -> tuple[Tensor, Tensor, Tensor]:
    """``U (d_out, k)``, singular values ``(k,)`` and ``V (d_in, k)``, in float64."""
    if delta.right is None:
        left, values, right = torch.linalg.svd(delta.left.double(), full_matrices=False)
        return left, values, right.T
    outer, small = torch.linalg.qr(delta.left.double())
    inner, other = torch.linalg.qr(delta.right.double())
    left, values, right = torch.linalg.svd(small @ other.T, full_matrices=False)
    return outer @ left, values, inner @ right.T
