"""The delta: what is added to a weight, kept factored (cf. TransformerLens' ``FactoredMatrix``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_RANK = 16  # what `Delta.factored` tries first, before twice as many


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
        """The sum of at least one delta: factored where all are and that is smaller, else float64.

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

    def columns(self, places: Sequence[int]) -> Delta:
        """The part of a factored delta that some of its ``r`` columns make.

        Raises:
            ValueError: it is dense.
        """
        if self.right is None:
            raise ValueError("a dense delta has no columns of its own")
        return Delta(self.left[:, list(places)], self.right[:, list(places)])

    def minus(self, dense: Tensor) -> Delta:
        """``Δ − dense``, dense ``(d_out, d_in)``, in float64."""
        return Delta(self.dense.double() - dense.double())

    def factored(self, tolerance: float) -> Delta:
        """A dense delta in as few columns as it has to within ``tolerance``, where that is smaller.

        A randomised range finder (Halko et al. 2011, algorithm 4.2), its error measured; the same
        on every call.

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
                kept = int((tails > tolerance / 2).sum())
                return Delta(basis @ (u[:, :kept] * values[:kept]), vt[:kept].T)
            rank *= 2
        return self

    def to(self, *args: torch.dtype | torch.device | str) -> Delta:
        """The same delta in another dtype or on another device."""
        right = None if self.right is None else self.right.to(*args)  # type: ignore[call-overload]
        return Delta(self.left.to(*args), right)  # type: ignore[call-overload]
