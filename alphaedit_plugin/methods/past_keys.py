"""Keys of earlier batches, and the system that grows with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import NumericalError

CHUNK = 512  # columns of M that exist in float64 at once


class KeyMap(Protocol):
    """``H``, a linear map of keys."""

    def image(self, keys: Tensor) -> Tensor:
        """``H keys (d_in, n)``, in the precision in which ``M`` is kept."""

    def adjoint(self, images: Tensor) -> Tensor:
        """``Hᵀ images (d_in, n)``."""


def cholesky(system: Tensor, weight: float) -> Tensor:
    """The lower factor of a system with ridge ``weight``.

    Raises:
        NumericalError: rounding, or an entry that is not finite, leaves it not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed or not torch.isfinite(factor).all():
        raise NumericalError(
            "the system of keys is not positive definite: keys of this batch are (nearly) the "
            f"same, or not finite, and its ridge of {weight:g} is too small for them; "
            "raise projector.l2, or model.moment_weight for a plain base"
        )
    return factor


@dataclass
class DualSystem:
    """``Mᵀ M + w I = L Lᵀ`` of ``M = H [K₁, K₂, …]``, one row per key.

    A batch adds a block of rows to ``L``, which costs far less than factoring again: what makes
    an edit after thousands of others as cheap as the first. Undoing a batch drops its rows.

    Attributes:
        key_map: ``H``.
        weight: ``w > 0``.
        blocks: ``K₁, K₂, …``, ``(d_in, n)`` each.
        images: ``M (d_in, m)``, as `KeyMap.image` gave it.
        factor: ``L (m, m)`` float64.
    """

    key_map: KeyMap
    weight: float
    blocks: list[Tensor] = field(default_factory=list)
    images: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    factor: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))

    def hold(self, blocks: Sequence[Tensor]) -> None:
        """Make it the system of these blocks; the leading ones it has already cost nothing.

        Raises:
            NumericalError: see `cholesky`.
        """
        common = 0
        for mine, other in zip(self.blocks, blocks, strict=False):
            if mine is not other and not torch.equal(mine, other):
                break
            common += 1
        if common < len(self.blocks):
            size = sum(block.shape[1] for block in blocks[:common])
            self.blocks = self.blocks[:common]
            self.images, self.factor = self.images[:, :size], self.factor[:size, :size]
        for block in blocks[common:]:
            self._append(block)

    def _append(self, keys: Tensor) -> None:
        # How a product rounds depends on the layout, and keys read from a file have only one.
        image = self.key_map.image(keys.contiguous())
        new, size = image.double(), len(self.factor)
        if not size:
            self.images, self.factor = image[:, :0], new.new_empty(0, 0)
        # [MᵀM + wI  MᵀN     ]   [L   0] [Lᵀ X]
        # [NᵀM       NᵀN + wI] = [Xᵀ  S] [0  Sᵀ],  X = L⁻¹ MᵀN,  S Sᵀ = NᵀN + wI − XᵀX
        products = torch.cat([m.double().T @ new for m in self.images.split(CHUNK, dim=1)])
        x = torch.linalg.solve_triangular(self.factor, products, upper=False)
        gram = new.T @ new
        gram.diagonal().add_(self.weight)
        s = cholesky(gram.addmm(x.T, x, alpha=-1), self.weight)
        factor = new.new_zeros(size + len(s), size + len(s))
        factor[:size, :size], factor[size:, :size], factor[size:, size:] = self.factor, x.T, s
        self.images, self.factor = torch.cat([self.images, image], dim=1), factor
        self.blocks.append(keys)

    def last_columns(self, n: int) -> Tensor:
        """``M (Mᵀ M + w I)⁻¹ [0; I]``: the last ``n`` columns, ``(d_in, n)`` float64."""
        unit = self.factor.new_zeros(len(self.factor), n)
        unit[-n:].fill_diagonal_(1)
        weights = torch.cholesky_solve(unit, self.factor)
        total = weights.new_zeros(len(self.images), n)
        for m, rows in zip(self.images.split(CHUNK, dim=1), weights.split(CHUNK), strict=True):
            total.addmm_(m.double(), rows)
        return total


@dataclass
class PastKeys:
    """``Kp`` of one layer: keys of all earlier batches, taken after their write.

    Attributes:
        blocks: ``(d_in, n)`` float32 of each batch, in order.
    """

    blocks: tuple[Tensor, ...] = ()
    _system: DualSystem | None = None

    def hold(self, batches: Sequence[Tensor], lost: Sequence[Collection[int]]) -> None:
        """Hold the keys of these batches, except those that no longer count.

        Args:
            batches: ``(d_in, n)`` each.
            lost: of each batch, the indices of such keys.
        """
        pairs = list(zip(batches, lost, strict=True))
        kept = [[n for n in range(keys.shape[1]) if n not in out] for keys, out in pairs]
        self.blocks = tuple(
            keys[:, columns] if out else keys
            for (keys, out), columns in zip(pairs, kept, strict=True)
            if columns
        )

    @property
    def count(self) -> int:
        """How many keys there are."""
        return sum(block.shape[1] for block in self.blocks)

    def joined(self, like: Tensor) -> Tensor:
        """``Kp (d_in, m)``, of the dtype and on the device of ``like (d_in, n)``."""
        return torch.cat([like[:, :0], *(block.to(like) for block in self.blocks)], dim=1)

    def system(self, key_map: KeyMap, weight: float) -> DualSystem:
        """The system that has grown from these keys under this map (the same object)."""
        system = self._system
        if system is None or system.key_map is not key_map or system.weight != weight:
            system = self._system = DualSystem(key_map, weight)
        return system
