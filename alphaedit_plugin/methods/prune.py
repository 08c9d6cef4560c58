"""PRUNE: MEMIT per batch, restrained once the run is over (Ma et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import require
from alphaedit_plugin.methods.base import METHODS
from alphaedit_plugin.methods.memit import Memit


@dataclass(frozen=True)
class Prune(Memit):
    """PRUNE.

    Attributes:
        alpha: base of the logarithm that restrains singular values; the paper uses 1.2.
    """

    alpha: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 < self.alpha < math.inf, "base.alpha", self.alpha, "greater than 1 and finite")

    def finalize(self, layer: int, accumulated: Tensor, pristine: Tensor) -> Delta:
        """See `restrain`."""
        return restrain(accumulated, pristine, Restraint(self.alpha))


@dataclass(frozen=True)
class Restraint:
    """PRUNE's curve (Ma et al. 2025, eq. 7).

    Attributes:
        alpha: base of the logarithm, > 1; the paper's curve has slope ``1/(σ* ln α)`` at ``σ*``.
    """

    alpha: float = 1.2

    def __call__(self, values: Tensor, limit: Tensor) -> Tensor:
        """Singular values above ``limit = σ*`` become ``log_α σ − log_α σ* + σ*``.

        Where the slope at ``σ*`` exceeds 1 the curve would grow a value; it is kept then.
        """
        curve = torch.log(values.clamp_min(1e-30) / limit) / math.log(self.alpha) + limit
        return torch.where(values > limit, torch.minimum(values, curve), values)


def restrain(delta: Tensor, weight: Tensor, curve: Restraint) -> Delta:
    """PRUNE: shrink the singular values of an accumulated delta above the weight's largest.

    Args:
        delta: ``Δ = W − W0``, ``(d_out, d_in)``.
        weight: the pristine ``W0 (d_out, d_in)``.
        curve: the restraint.

    Returns:
        ``Δ'``, to be added to the *pristine* weight.
    """
    u, values, vt = torch.linalg.svd(delta.double(), full_matrices=False)
    limit = torch.linalg.matrix_norm(weight.double(), ord=2)
    return Delta(u * curve(values, limit), vt.T)


METHODS.register("prune", Prune)
