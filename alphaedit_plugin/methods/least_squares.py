"""The keys of earlier batches, and a least squares that grows with them instead of starting anew.

AlphaEdit's closed form and MEMIT's are one: with ``A = [Kp, K]`` and a linear map ``H`` of keys,

    ``Δ = R [0 I] (Mᵀ M + w I)⁻¹ Mᵀ H,  M = H A``

is AlphaEdit (Fang et al. 2025, eq. 14) for ``H = P``, ``w = L2``, and MEMIT (Meng et al. 2023, eq.
14), with the keys of earlier batches where there are any, for ``H = L⁻¹``, ``C = L Lᵀ``, ``w = λ``.
The system has one row per edit and is positive definite whatever rounding ``M`` has. Its Cholesky
factor gains a block of rows with every batch, and undoing a batch drops it again: the factor of a
leading block is the leading block of the factor.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import NumericalError

CHUNK = 512  # columns of M that exist in float64 at once


class KeyMap(Protocol):
    """``H``, what a method sees of keys."""

    def image(self, keys: Tensor) -> Tensor:
        """``H keys (d_in, n)``, in the precision that ``M`` is to be kept in."""

    def adjoint(self, images: Tensor) -> Tensor:
        """``Hᵀ images (d_in, n)``."""


@dataclass(frozen=True)
class _Border:
    """What ``n`` more keys ``K`` add to a system of ``m``, whose factor is ``L``.

    Attributes:
        image: ``H K (d_in, n)``.
        cross: ``S = L⁻¹ Mᵀ H K (m, n)``.
        corner: Cholesky factor of ``KᵀHᵀH K + w I − SᵀS (n, n)``.
    """

    image: Tensor
    cross: Tensor
    corner: Tensor


@dataclass
class GrowingFactor:
    """Cholesky factor of ``Mᵀ M + w I``, float64, for images ``M`` of keys that arrive in blocks.

    Attributes:
        sight: ``H``.
        weight: ``w > 0``.
        blocks: the keys in it, block by block.
        images: ``M (d_in, m)``, as `KeyMap.image` gave them.
        lower: the factor ``(m, m)`` float64.
    """

    sight: KeyMap
    weight: float
    blocks: list[Tensor] = field(default_factory=list)
    images: Tensor | None = None
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
        apart = border.image.double()
        if self.lower is not None and self.images is not None:
            above = torch.linalg.solve_triangular(self.lower.T, border.cross, upper=True)
            for images, rows in zip(
                self.images.split(CHUNK, dim=1), above.split(CHUNK), strict=True
            ):
                apart = apart.addmm(images.double(), rows, alpha=-1)
        seen = torch.cholesky_solve(apart.T, border.corner).T
        right = self.sight.adjoint(seen.to(border.image))
        return Delta(residual.to(right), right)

    def _border(self, keys: Tensor) -> _Border:
        """What ``keys`` add to the system, beside the blocks in it."""
        # How a product rounds depends on the layout, and keys that come back from a file, where
        # they have but one, are to grow what they grew in the run that wrote them.
        image = self.sight.image(keys.contiguous())
        exact = image.double()
        corner = exact.T @ exact
        corner.diagonal().add_(self.weight)
        cross = exact.new_zeros(0, exact.shape[1])
        if self.lower is not None and self.images is not None:
            parts = [part.double().T @ exact for part in self.images.split(CHUNK, dim=1)]
            cross = torch.linalg.solve_triangular(self.lower, torch.cat(parts), upper=False)
            corner = corner.addmm(cross.T, cross, alpha=-1)
        factor, failed = torch.linalg.cholesky_ex(corner)
        if failed or not torch.isfinite(factor).all():
            raise NumericalError(
                "the system of keys is not positive definite: keys of this batch are (nearly) the "
                f"same, or not finite, and its ridge of {self.weight:g} is too small for them; "
                "raise projector.l2, or model.moment_weight for a plain base"
            )
        return _Border(image, cross, factor)

    def _append(self, block: Tensor) -> None:
        solved, self._solved = self._solved, None
        # The keys of the last delta become history by being written: their border is known.
        border = solved[1] if solved is not None and solved[0] is block else self._border(block)
        image, cross, corner = border.image, border.cross, border.corner
        if self.lower is None or self.images is None:
            self.images, self.lower = image, corner
        else:
            held, new = len(self.lower), len(corner)
            grown = self.lower.new_zeros(held + new, held + new)
            grown[:held, :held], grown[held:, :held] = self.lower, cross.T
            grown[held:, held:] = corner
            self.images, self.lower = torch.cat([self.images, image], dim=1), grown
        self.blocks.append(block)

    def _truncate(self, count: int) -> None:
        if count == len(self.blocks):
            return
        kept = sum(block.shape[1] for block in self.blocks[:count])
        del self.blocks[count:]
        self._solved = None
        if self.lower is not None and self.images is not None:
            self.lower, self.images = (
                self.lower[:kept, :kept].clone(),
                self.images[:, :kept].clone(),
            )
        if not kept:
            self.lower = self.images = None


@dataclass
class PastKeys:
    """``Kp`` of one layer: keys of all earlier batches, taken after their write.

    Attributes:
        blocks: ``(d_in, n)`` float32 of each batch, in order.
        factors: what has grown from them so far, one per map and weight that asked.
    """

    blocks: tuple[Tensor, ...] = ()
    factors: list[GrowingFactor] = field(default_factory=list)
    _parts: dict[int, tuple[Tensor, tuple[int, ...], Tensor]] = field(default_factory=dict)

    def hold(self, batches: Sequence[Tensor], lost: Sequence[Collection[int]]) -> None:
        """Hold the keys of these batches, without those that count no longer.

        Args:
            batches: ``(d_in, n)`` each.
            lost: of each batch, the places of such keys.
        """
        held, parts = [], {}
        for batch, places in zip(batches, lost, strict=True):
            kept = tuple(n for n in range(batch.shape[1]) if n not in places)
            if len(kept) == batch.shape[1]:
                held.append(batch)
            elif kept:  # the same tensor every time, from which factors have grown
                known = self._parts.get(id(batch))
                if known is None or known[1] != kept:
                    known = (batch, kept, batch[:, list(kept)])
                parts[id(batch)] = known
                held.append(known[2])
        self.blocks, self._parts = tuple(held), parts

    @property
    def count(self) -> int:
        """How many keys there are."""
        return sum(block.shape[1] for block in self.blocks)

    def joined(self, like: Tensor) -> Tensor:
        """All of them side by side, ``(d_in, m)``, of the dtype and place of ``like (d_in, n)``."""
        return torch.cat([like[:, :0], *(block.to(like) for block in self.blocks)], dim=1)

    def factor(self, sight: KeyMap, weight: float) -> GrowingFactor:
        """The factor of these keys as ``sight`` maps them, grown from what is there of it.

        Args:
            sight: ``H``; the same object asks for the same factor.
            weight: ``w``, see `GrowingFactor`.
        """
        for factor in self.factors:
            if factor.sight is sight and factor.weight == weight:
                break
        else:
            factor = GrowingFactor(sight, weight)
            self.factors.append(factor)
        factor.follow(self.blocks)
        return factor
