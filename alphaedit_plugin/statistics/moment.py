"""The second moment ``C = E[k kᵀ]`` of a layer's keys, uncentred, and the sum it grows from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from alphaedit_plugin.errors import NumericalError

logger = logging.getLogger(__name__)

JITTER = 1e-10  # share of the mean eigenvalue added when C has no Cholesky factor of its own


@dataclass(frozen=True)
class SecondMoment:
    """The sum of ``k kᵀ`` over keys, and how many there were.

    Attributes:
        total: ``(d_in, d_in)`` float64.
        count: number of keys.
    """

    total: Tensor
    count: int

    @property
    def mean(self) -> Tensor:
        """``C``, ``(d_in, d_in)`` float64."""
        return self.total / max(self.count, 1)

    @cached_property
    def factor(self) -> Tensor:
        """Lower Cholesky factor of ``C``, ``(d_in, d_in)`` float64; kept once computed.

        Raises:
            NumericalError: ``C`` is not finite.
        """
        mean = self.mean
        if not torch.isfinite(mean).all():
            raise NumericalError("the second moment has entries that are not finite")
        factor, failed = torch.linalg.cholesky_ex(mean)
        if not failed:
            return factor
        # Fewer tokens than d_in leave C singular; the host inverts rounding noise there.
        ridge = JITTER * mean.diagonal().mean()
        logger.warning(
            "second moment of %d keys in %d dimensions is singular: adding %.1e to its diagonal",
            self.count, len(mean), ridge.item(),
        )  # fmt: skip
        for _ in range(8):
            factor, failed = torch.linalg.cholesky_ex(mean + ridge * torch.eye(len(mean)).to(mean))
            if not failed:
                return factor
            ridge = 10 * ridge
        raise NumericalError("the second moment is not positive semi-definite: recompute it")

    def whiten(self, keys: Tensor) -> Tensor:
        """``C⁻¹ keys``, ``(d_in, n)`` float64."""
        return torch.cholesky_solve(keys.to(self.factor), self.factor)

    def __add__(self, other: SecondMoment) -> SecondMoment:
        """The moment of both sets of keys."""
        return SecondMoment(self.total + other.total, self.count + other.count)


@dataclass
class MomentSum:
    """A second moment that grows: float32 products, added up in float64.

    One ``d_in²`` float64 matrix, and while adding one in float32, which sums of equal size share.

    Attributes:
        total: ``(d_in, d_in)`` float64; ``None`` before the first key.
        count: number of keys so far.
    """

    total: Tensor | None = None
    count: int = 0

    def add(self, keys: Tensor, scratch: Scratch) -> None:
        """Add ``keys (n, d_in)`` float32."""
        product = scratch.product(keys)
        if self.total is None:
            self.total = product.double()
        else:  # what a checkpoint held comes from the CPU
            self.total = self.total.to(product.device).add_(product)
        self.count += len(keys)

    def result(self) -> SecondMoment:
        """The moment of everything added; there must have been something."""
        assert self.total is not None
        return SecondMoment(self.total, self.count)


@dataclass
class Scratch:
    """The one float32 matrix that all sums on a device write their products to."""

    buffers: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict)

    def product(self, keys: Tensor) -> Tensor:
        """``keysᵀ keys``, ``(d_in, d_in)`` float32; overwritten by the next call."""
        d_in, place = keys.shape[1], (keys.shape[1], keys.device)
        if place not in self.buffers:
            self.buffers[place] = keys.new_empty(d_in, d_in)
        return torch.mm(keys.T, keys, out=self.buffers[place])
