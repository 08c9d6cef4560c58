"""The closed form that MEMIT and AlphaEdit share, kept up as keys arrive.

With ``A = [Kp, K]``, a linear map ``H`` of keys, and ``M = H A``,

    ``Δ = R [0 I] (Mᵀ M + w I)⁻¹ Mᵀ H  =  R (H K)ᵀ (M Mᵀ + w I)⁻¹ H``

is AlphaEdit (Fang et al. 2025, eq. 14) for ``H = P``, ``w = L2``, and MEMIT (Meng et al. 2023, eq.
14), with the keys of earlier batches where there are any, for ``H = L⁻¹``, ``C = L Lᵀ``, ``w = λ``.
Both systems are symmetric positive definite, and solved in float64.
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


def least_squares(
    key_map: KeyMap, weight: float, past: PastKeys, keys: Tensor, residual: Tensor
) -> Delta:
    """The delta that writes ``R`` at ``K`` and keeps ``Kp`` in place, on the smaller side.

    Args:
        key_map: ``H``; the same object finds what has grown from the same keys.
        weight: ``w > 0``.
        past: ``Kp``, ``m`` keys.
        keys: ``K (d_in, n)``.
        residual: ``R (d_out, n)``.

    Raises:
        NumericalError: rounding, or an entry that is not finite, leaves the system not positive
            definite.
    """
    d_in, n = keys.shape
    if past.count + n > d_in:
        images = key_map.image(torch.cat([past.joined(keys), keys], dim=1))
        exact = images.double()
        system = exact @ exact.T
        system.diagonal().add_(weight)
        seen = torch.cholesky_solve(exact[:, -n:], _cholesky(system, weight))
    else:
        grown = past.system(key_map, weight)
        grown.follow([*past.blocks, keys])
        images, last = grown.images, torch.eye(len(grown.lower))[:, -n:]
        seen = _times(images, torch.cholesky_solve(last.to(grown.lower), grown.lower))
    right = key_map.adjoint(seen.to(images))
    return Delta(residual.to(right), right)


@dataclass
class System:
    """``Mᵀ M + w I = L Lᵀ``, which gains a block of rows with every block of keys.

    Undoing a batch drops its rows again: a leading block's factor is the factor's leading block.

    Attributes:
        key_map: ``H``.
        weight: ``w > 0``.
        blocks: the keys in it, block by block.
        images: ``M (d_in, m)``, as `KeyMap.image` gave them.
        lower: ``L (m, m)`` float64.
    """

    key_map: KeyMap
    weight: float
    blocks: list[Tensor] = field(default_factory=list)
    images: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    lower: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))

    def follow(self, blocks: Sequence[Tensor]) -> None:
        """Hold exactly these blocks; those it holds already, in the same order, cost nothing.

        Raises:
            NumericalError: see `least_squares`.
        """
        same = 0
        while same < min(len(blocks), len(self.blocks)) and blocks[same] is self.blocks[same]:
            same += 1
        if same < len(self.blocks):
            size = sum(block.shape[1] for block in blocks[:same])
            self.blocks = self.blocks[:same]
            self.images, self.lower = self.images[:, :size], self.lower[:size, :size]
        for block in blocks[same:]:
            self._append(block)

    def _append(self, block: Tensor) -> None:
        # How a product rounds depends on the layout, and keys read from a file have only one.
        image = self.key_map.image(block.contiguous())
        exact, size = image.double(), len(self.lower)
        corner = exact.T @ exact
        corner.diagonal().add_(self.weight)
        if not size:
            self.images, self.lower = image, _cholesky(corner, self.weight)
        else:
            parts = [part.double().T @ exact for part in self.images.split(CHUNK, dim=1)]
            cross = torch.linalg.solve_triangular(self.lower, torch.cat(parts), upper=False)
            corner = _cholesky(corner.addmm(cross.T, cross, alpha=-1), self.weight)
            lower = corner.new_zeros(size + len(corner), size + len(corner))
            lower[:size, :size], lower[size:, :size] = self.lower, cross.T
            lower[size:, size:] = corner
            self.images, self.lower = torch.cat([self.images, image], dim=1), lower
        self.blocks.append(block)


def _cholesky(system: Tensor, weight: float) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed or not torch.isfinite(factor).all():
        raise NumericalError(
            "the system of keys is not positive definite: keys of this batch are (nearly) the "
            f"same, or not finite, and its ridge of {weight:g} is too small for them; "
            "raise projector.l2, or model.moment_weight for a plain base"
        )
    return factor


def _times(images: Tensor, columns: Tensor) -> Tensor:
    """``M columns`` in float64."""
    total = columns.new_zeros(len(images), columns.shape[1])
    for part, rows in zip(images.split(CHUNK, dim=1), columns.split(CHUNK), strict=True):
        total.addmm_(part.double(), rows)
    return total


@dataclass
class PastKeys:
    """``Kp`` of one layer: keys of all earlier batches, taken after their write.

    Attributes:
        blocks: ``(d_in, n)`` float32 of each batch, in order.
        systems: what has grown from them so far, one per map and weight that asked.
    """

    blocks: tuple[Tensor, ...] = ()
    systems: list[System] = field(default_factory=list)
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
            elif kept:  # the same tensor every time, from which systems have grown
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

    def system(self, key_map: KeyMap, weight: float) -> System:
        """The system that has grown from these keys under ``key_map`` (the same object)."""
        for system in self.systems:
            if system.key_map is key_map and system.weight == weight:
                return system
        self.systems.append(System(key_map, weight))
        return self.systems[-1]
