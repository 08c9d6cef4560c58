"""PRUNE: MEMIT per batch, restrained at the end of the run (Ma et al. 2025)."""

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
        return restrain(accumulated, pristine, self.alpha)


def restrain(delta: Tensor, weight: Tensor, alpha: float) -> Delta:
    """Shrink singular values ``σ > σ*`` to ``log_α σ − log_α σ* + σ*`` (Ma et al. 2025, eq. 7).

    The curve's slope at ``σ*`` is ``1/(σ* ln α)``; where that exceeds 1 it would grow a value,
    which is kept instead.

    Args:
        delta: the accumulated ``Δ = W − W0``, ``(d_out, d_in)``.
        weight: the pristine ``W0 (d_out, d_in)``, whose largest singular value is ``σ*``.
        alpha: base of the logarithm, > 1.

    Returns:
        ``Δ'``, to be added to the *pristine* weight.
    """
    u, values, vt = torch.linalg.svd(delta.double(), full_matrices=False)
    limit = torch.linalg.matrix_norm(weight.double(), ord=2)
    curve = torch.log(values.clamp_min(1e-30) / limit) / math.log(alpha) + limit
    restrained = torch.where(values > limit, torch.minimum(values, curve), values)
    return Delta(u * restrained, vt.T)


METHODS.register("prune", Prune)
