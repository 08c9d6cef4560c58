"""The delta: what is added to a weight, kept factored (cf. TransformerLens' ``FactoredMatrix``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Delta:
    """``Δ = left rightᵀ``; without ``right``, ``left`` is the dense delta itself.

    Attributes:
        left: ``(d_out, r)``, or ``(d_out, d_in)`` when dense.
        right: ``(d_in, r)``, or ``None`` when dense.
    """

    left: Tensor
    right: Tensor | None = None

    @property
    def dense(self) -> Tensor:
        """``(d_out, d_in)``, in the precision of the factors."""
        return self.left if self.right is None else self.left @ self.right.T

    @property
    def norm(self) -> float:
        """Frobenius norm, without forming a factored delta."""
        if self.right is None:
            return self.left.norm().item()
        left, right = self.left.double(), self.right.double()
        squared = ((left.T @ left) * (right.T @ right)).sum()
        return squared.clamp_min(0).sqrt().item()

    @property
    def is_finite(self) -> bool:
        """Whether every factor is finite."""
        parts = (self.left,) if self.right is None else (self.left, self.right)
        return all(bool(torch.isfinite(part).all()) for part in parts)

    def minus(self, dense: Tensor) -> Delta:
        """``Δ − dense``, dense ``(d_out, d_in)``, in float64."""
        return Delta(self.dense.double() - dense.double())

    def to(self, *args: torch.dtype | torch.device | str) -> Delta:
        """The same delta in another dtype or on another device."""
        right = None if self.right is None else self.right.to(*args)  # type: ignore[call-overload]
        return Delta(self.left.to(*args), right)  # type: ignore[call-overload]
