"""The system with one equation per key, which grows with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import NumericalError

CHUNK = 512  # columns of M that exist in float64 at once


class LinearMap(Protocol):
    """``H``, a linear map of keys."""

    def image(self, keys: Tensor) -> Tensor:
        """``H keys (q, n)``, in the precision in which ``M`` is kept."""

    def adjoint(self, images: Tensor) -> Tensor:
        """``Hᵀ images (d_in, n)``."""


class ReducedMap(LinearMap, Protocol):
    """One whose images have no more rows than their span has dimensions."""

    @property
    def dimension(self) -> int:
        """``q``, the rows of an image."""


class KeyMap(LinearMap, Protocol):
    """One that can be reduced."""

    @property
    def reduced(self) -> ReducedMap:
        """The same in an orthonormal basis of its range: ``Mᵀ M`` stays what it is."""


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


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two blocks hold the same keys."""
    return a is b or torch.equal(a, b.to(a.device))


def placed(blocks: Sequence[Tensor], device: torch.device) -> Tensor:
    """Keys side by side, in memory of their own.

    How a product rounds depends on the layout and alignment, which differ for keys of a file.
    """
    joined = torch.cat([block.to(device) for block in blocks], dim=1)
    return joined.clone(memory_format=torch.contiguous_format) if len(blocks) == 1 else joined


@dataclass
class DualSystem:
    """``Mᵀ M + w I = L Lᵀ`` of ``M = H [K₁, K₂, …]``, one row per key.

    A batch adds a block of rows to ``L``, which costs far less than factoring again: what makes
    an edit after thousands of others as cheap as the first. Undoing a batch drops its rows.

    Attributes:
        key_map: ``H``.
        weight: ``w > 0``.
        blocks: ``K₁, K₂, …``, ``(d_in, n)`` each, on any device.
        images: ``M (q, m)``, as `LinearMap.image` gave it.
        factor: ``L (m, m)`` float64.
    """

    key_map: LinearMap
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
            if not same(mine, other):
                break
            common += 1
        if common < len(self.blocks):
            size = sum(block.shape[1] for block in blocks[:common])
            self.blocks = self.blocks[:common]
            self.images, self.factor = self.images[:, :size], self.factor[:size, :size]
        self.blocks[:] = blocks[:common]  # an equal copy is not kept beside the caller's
        for block in blocks[common:]:
            self._append(block, blocks[-1].device)

    def _append(self, keys: Tensor, device: torch.device) -> None:
        image = self.key_map.image(placed([keys], device))
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
        """``M (Mᵀ M + w I)⁻¹ [0; I]``: the last ``n`` columns, ``(q, n)`` float64."""
        unit = self.factor.new_zeros(len(self.factor), n)
        unit[-n:].fill_diagonal_(1)
        weights = torch.cholesky_solve(unit, self.factor)
        total = weights.new_zeros(len(self.images), n)
        for m, rows in zip(self.images.split(CHUNK, dim=1), weights.split(CHUNK), strict=True):
            total.addmm_(m.double(), rows)
        return total
