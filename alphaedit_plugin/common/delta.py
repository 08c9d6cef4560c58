"""The delta: what is added to a weight, kept factored (cf. TransformerLens' ``FactoredMatrix``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_RANK = 16  # that `Delta.factored` tries; then it doubles


@dataclass(frozen=True)
class Delta:
    """``Δ = left rightᵀ``; without ``right``, ``left`` is the dense delta itself.

    Attributes:
        left: ``(d_out, r)``, or ``(d_out, d_in)`` when dense.
        right: ``(d_in, r)``, or ``None`` when dense.
    """

    left: Tensor
    right: Tensor | None = None

    @classmethod
    def joined(cls, deltas: Sequence[Delta]) -> Delta:
        """The sum of deltas: factored if all are and that is smaller, else dense in float64.

        Raises:
            ValueError: there is none.
        """
        if not deltas:
            raise ValueError("no delta to sum")
        rank = sum(delta.left.shape[1] for delta in deltas if delta.right is not None)
        rights = [delta.right for delta in deltas if delta.right is not None]
        rows = len(deltas[0].left)
        columns = len(rights[0]) if rights else deltas[0].left.shape[1]
        if len(rights) == len(deltas) and rank * (rows + columns) < rows * columns:
            return cls(torch.cat([delta.left for delta in deltas], 1), torch.cat(rights, 1))
        total = torch.zeros(rows, columns, dtype=torch.float64, device=deltas[0].left.device)
        for delta in deltas:
            total += delta.to(torch.float64).dense.to(total.device)
        return cls(total)

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

    def columns(self, indices: Sequence[int]) -> Delta:
        """Some of a factored delta's ``r`` columns.

        Raises:
            ValueError: it is dense.
        """
        if self.right is None:
            raise ValueError("a dense delta has no columns to choose from")
        return Delta(self.left[:, list(indices)], self.right[:, list(indices)])

    def minus(self, dense: Tensor) -> Delta:
        """``Δ − dense``, dense ``(d_out, d_in)``, in float64."""
        return Delta(self.dense.double() - dense.double())

    def factored(self, tolerance: float) -> Delta:
        """A dense delta in as few columns as ``tolerance`` allows, if that is smaller.

        A randomized range finder (Halko et al. 2011, algorithm 4.2) whose error is measured;
        every call gives the same.

        Args:
            tolerance: on the Frobenius norm of the difference.
        """
        if self.right is not None:
            return self
        rows, columns = self.left.shape
        generator, rank = torch.Generator().manual_seed(0), FIRST_RANK
        while rank * (rows + columns) < rows * columns:
            probe = torch.randn(columns, rank, generator=generator, dtype=torch.float64)
            basis = torch.linalg.qr(self.left @ probe.to(self.left)).Q
            inside = basis.T @ self.left
            if (self.left - basis @ inside).norm() <= tolerance / 2:
                u, values, vt = torch.linalg.svd(inside, full_matrices=False)
                tails = values.flip(0).square().cumsum(0).sqrt().flip(0)
                needed = int((tails > tolerance / 2).sum())
                return Delta(basis @ (u[:, :needed] * values[:needed]), vt[:needed].T)
            rank *= 2
        return self

    def to(self, *args: torch.dtype | torch.device | str) -> Delta:
        """The same delta in another dtype or on another device."""
        right = None if self.right is None else self.right.to(*args)  # type: ignore[call-overload]
        return Delta(self.left.to(*args), right)  # type: ignore[call-overload]


@dataclass(frozen=True)
class LowRank:
    """``Δ ≈ up down``, see `factorise`.

    Attributes:
        up: ``(d_out, r)`` float32.
        down: ``(r, d_in)`` float32.
        full_rank: numerical rank of ``Δ``.
        error: ``‖up down − Δ‖ / ‖Δ‖`` of what was truncated; 0 if that is only rounding.
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
    """Factor ``Δ`` by its SVD; each side gets the square roots of the singular values.

    A factored delta is never formed: with ``Δ = L Rᵀ``, ``L = Q₁ S₁`` and ``R = Q₂ S₂``, its
    singular values are those of the small ``S₁ S₂ᵀ``. Numerical rank counts those above
    ``σ₁ ε max(d_out, d_in)`` with float32's ε, as deltas are kept in float32; and, where deltas
    cancel, above the rounding of their sum in float64.

    Args:
        delta: ``(d_out, d_in)``; see `Delta.joined` for the sum of several.
        rank: the most dimensions to keep, the largest ones; ``None`` for all.
    """
    left, values, right = _svd(delta)
    d_out, d_in = left.shape[0], right.shape[0]
    scale = delta.left.double().norm()
    if delta.right is not None:
        scale = scale * delta.right.double().norm()
    rounding, noise = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps
    floor = max(d_out, d_in) * torch.maximum(values[:1].sum() * rounding, scale * noise)
    full = int((values > floor).sum())
    r = full if rank is None else min(rank, full)
    error = values[r:full].norm() / values.norm().clamp_min(torch.finfo(values.dtype).tiny)
    root = values[:r].sqrt()
    up, down = left[:, :r] * root, root[:, None] * right[:, :r].T
    return LowRank(up.float().contiguous(), down.float().contiguous(), full, error.item())


def _svd(delta: Delta) -> tuple[Tensor, Tensor, Tensor]:
    """``U (d_out, k)``, singular values ``(k,)`` and ``V (d_in, k)``, in float64."""
    if delta.right is None:
        left, values, right = torch.linalg.svd(delta.left.double(), full_matrices=False)
        return left, values, right.T
    outer, small = torch.linalg.qr(delta.left.double())
    inner, other = torch.linalg.qr(delta.right.double())
    left, values, right = torch.linalg.svd(small @ other.T, full_matrices=False)
    return outer @ left, values, inner @ right.T
