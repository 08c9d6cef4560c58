"""The keys of earlier batches, and a least squares that grows with them instead of starting anew.

AlphaEdit's closed form and MEMIT's are one: with ``A = [Kp, K]`` and a symmetric map ``T``,

    ``Δ = R [0 I] (Aᵀ T A + w I)⁻¹ (T A)ᵀ``

is AlphaEdit (Fang et al. 2025, eq. 14) for ``T = P``, ``w = L2``, and MEMIT (Meng et al. 2023, eq.
14), with the keys of earlier batches where there are any, for ``T = C⁻¹``, ``w = λ``. The system
has one row per edit. Its Cholesky factor gains a block of rows with every batch, and undoing a
batch drops it again: the factor of a leading block is the leading block of the factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alphaedit_plugin.delta import Delta
from alphaedit_plugin.errors import NumericalError


@dataclass(frozen=True)
class _Border:
    """What ``n`` more keys ``K`` add to a system of ``m``, whose factor is ``L``.

    Attributes:
        mapped: ``T K (d_in, n)``.
        cross: ``S = L⁻¹ (T A)ᵀ K (m, n)``.
        corner: Cholesky factor of ``Kᵀ T K + w I − SᵀS (n, n)``.
    """

    mapped: Tensor
    cross: Tensor
    corner: Tensor


@dataclass
class GrowingFactor:
    """Cholesky factor of ``Aᵀ T A + w I`` for keys ``A`` that arrive in blocks.

    Attributes:
        transform: ``T``, symmetric and positive semi-definite, on columns ``(d_in, n)``.
        weight: ``w > 0``.
        blocks: the keys in it, block by block.
        mapped: ``T A (d_in, m)`` float64.
        lower: the factor ``(m, m)`` float64.
    """

    transform: Callable[[Tensor], Tensor]
    weight: float
    blocks: list[Tensor] = field(default_factory=list)
    mapped: Tensor | None = None
    lower: Tensor | None = None
    _solved: tuple[Tensor, _Border] | None = None

    def follow(self, blocks: Sequence[Tensor]) -> None:
        """Hold exactly these blocks; those it holds already, in the same order, cost nothing."""
        same = 0
        while same < min(len(blocks), len(self.blocks)) and blocks[same] is self.blocks[same]:
            same += 1
        self._truncate(same)
        for block in blocks[same:]:
            self._append(block)

    def delta(self, keys: Tensor, residual: Tensor) -> Delta:
        """The delta that writes ``residual (d_out, n)`` at ``keys (d_in, n)``, see above.

        Raises:
            NumericalError: the system is not positive definite to rounding.
        """
        border = self._border(keys)
        self._solved = (keys, border)
        apart = border.mapped
        if self.lower is not None and self.mapped is not None:
            above = torch.linalg.solve_triangular(self.lower.T, border.cross, upper=True)
            apart = apart - self.mapped @ above
        right = torch.cholesky_solve(apart.T, border.corner).T
        return Delta(residual.to(right), right)

    def _border(self, keys: Tensor) -> _Border:
        """What ``keys`` add to the system, beside the blocks in it."""
        exact = keys.double()
        mapped = self.transform(exact)
        gram = exact.T @ mapped
        corner = (gram + gram.T) / 2 + self.weight * torch.eye(gram.shape[0]).to(gram)
        cross = exact.new_zeros(0, exact.shape[1])
        if self.lower is not None and self.mapped is not None:
            cross = torch.linalg.solve_triangular(self.lower, self.mapped.T @ exact, upper=False)
            corner = corner - cross.T @ cross
        factor, failed = torch.linalg.cholesky_ex(corner)
        if failed or not torch.isfinite(factor).all():
            raise NumericalError(
                "the system of keys is not positive definite: keys of this batch are (nearly) the "
                f"same, or not finite, and its ridge of {self.weight:g} is too small for them; "
                "raise projector.l2, or model.moment_weight for a plain base"
            )
        return _Border(mapped, cross, factor)

    def _append(self, block: Tensor) -> None:
        solved, self._solved = self._solved, None
        # The keys of the last delta become history by being written: their border is known.
        border = solved[1] if solved is not None and solved[0] is block else self._border(block)
        mapped, cross, corner = border.mapped, border.cross, border.corner
        if self.lower is None or self.mapped is None:
            self.mapped, self.lower = mapped, corner
        else:
            held, new = len(self.lower), len(corner)
            grown = self.lower.new_zeros(held + new, held + new)
            grown[:held, :held], grown[held:, :held] = self.lower, cross.T
            grown[held:, held:] = corner
            self.mapped, self.lower = torch.cat([self.mapped, mapped], dim=1), grown
        self.blocks.append(block)

    def _truncate(self, count: int) -> None:
        if count == len(self.blocks):
            return
        kept = sum(block.shape[1] for block in self.blocks[:count])
        del self.blocks[count:]
        self._solved = None
        if self.lower is not None and self.mapped is not None:
            self.lower, self.mapped = (
                self.lower[:kept, :kept].clone(),
                self.mapped[:, :kept].clone(),
            )
        if not kept:
            self.lower = self.mapped = None


@dataclass
class PastKeys:
    """``Kp`` of one layer: keys of all earlier batches, taken after their write.

    Attributes:
        blocks: ``(d_in, n)`` float32 of each batch, in order.
        factors: what has grown from them so far; they belong to whoever first asked.
    """

    blocks: tuple[Tensor, ...] = ()
    factors: list[tuple[object, GrowingFactor]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many keys there are."""
        return sum(block.shape[1] for block in self.blocks)

    def joined(self, like: Tensor) -> Tensor:
        """All of them side by side, ``(d_in, m)``, of the dtype and place of ``like (d_in, n)``."""
        return torch.cat([like[:, :0], *(block.to(like) for block in self.blocks)], dim=1)

    def factor(
        self, owner: object, transform: Callable[[Tensor], Tensor], weight: float
    ) -> GrowingFactor:
        """The factor of these keys under ``transform``, grown from what is there of it.

        Args:
            owner: what ``transform`` belongs to; the same object asks for the same factor.
            transform: see `GrowingFactor`.
            weight: likewise.
        """
        for known, factor in self.factors:
            if known is owner and factor.weight == weight:
                break
        else:
            factor = GrowingFactor(transform, weight)
            self.factors.append((owner, factor))
        factor.follow(self.blocks)
        return factor
