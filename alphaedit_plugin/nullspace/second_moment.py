"""The second moment ``C = E[k kᵀ]`` of a layer's keys, uncentred, and the sum it grows from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import NumericalError

logger = logging.getLogger(__name__)

BLOCK = 1024  # rows of a product that are in memory at once
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

    @property
    def dimension(self) -> int:
        """``d_in``."""
        return len(self.total)

    @property
    def reduced(self) -> SecondMoment:
        """Itself: whitened keys may be any vector."""
        return self

    def image(self, keys: Tensor) -> Tensor:
        """``L⁻¹ keys (d_in, n)`` float64, ``C = L Lᵀ``: whitened keys, where the keys are."""
        exact = keys.to(self.factor)
        return torch.linalg.solve_triangular(self.factor, exact, upper=False).to(keys.device)

    def adjoint(self, images: Tensor) -> Tensor:
        """``L⁻ᵀ images (d_in, n)`` float64, where the images are."""
        exact = images.to(self.factor)
        return torch.linalg.solve_triangular(self.factor.T, exact, upper=True).to(images.device)

    def whiten(self, keys: Tensor) -> Tensor:
        """``C⁻¹ keys (d_in, n)`` float64, where the keys are."""
        return self.adjoint(self.image(keys))

    def __add__(self, other: SecondMoment) -> SecondMoment:
        """The moment of both sets of keys."""
        return SecondMoment(self.total + other.total, self.count + other.count)


@dataclass
class MomentSum:
    """A second moment that grows: float32 products, added up in float64.

    Beside the one ``d_in²`` matrix, products exist for `BLOCK` of its rows at a time.

    Attributes:
        total: ``(d_in, d_in)`` float64.
        count: number of keys so far.
    """

    total: Tensor
    count: int = 0

    @classmethod
    def empty(cls, d_in: int, device: torch.device) -> MomentSum:
        """The sum over no key."""
        return cls(torch.zeros(d_in, d_in, dtype=torch.float64, device=device))

    def add(self, keys: Tensor) -> None:
        """Add ``keys (n, d_in)`` float32."""
        for start in range(0, len(self.total), BLOCK):
            end = min(start + BLOCK, len(self.total))
            # C is symmetric: what is right of the diagonal block is known from below it.
            product = keys[:, start:end].T @ keys[:, :end]
            self.total[start:end, :end] += product
            self.total[:start, start:end] += product[:, :start].T
        self.count += len(keys)

    @property
    def is_finite(self) -> bool:
        """Whether every key was; one that was not shows on the diagonal."""
        return bool(torch.isfinite(self.total.diagonal()).all())
