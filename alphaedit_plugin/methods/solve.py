"""Closed forms of the base methods and of AlphaEdit, on tensors alone.

Nothing here inverts a matrix: every system is symmetric positive definite and solved through its
Cholesky factor. Least squares runs in float64, as in the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import NumericalError, require


def rome_delta(whitened: Tensor, subject_key: Tensor, residual: Tensor) -> Delta:
    """ROME's rank-one delta (Meng et al. 2022, eq. 2).

    ``u = C⁻¹k / ‖C⁻¹k‖`` and ``Δ = (v* − W k₀) uᵀ / (uᵀ k₀)``, so that ``(W + Δ) k₀ = v*``.

    Args:
        whitened: ``C⁻¹ k (d_in, 1)`` of the key ``k`` averaged over contexts.
        subject_key: ``k₀ (d_in, 1)``, the key of the bare prompt.
        residual: ``v* − W k₀``, ``(d_out, 1)``.
    """
    direction = whitened / whitened.norm()
    return Delta(residual.to(direction) / (direction.T @ subject_key.to(direction)), direction)


def primal_delta(floor: Tensor, keys: Tensor, residual: Tensor, past: Tensor) -> Delta:
    """Least squares for more keys than dimensions; `history` has its dual, for fewer.

    ``Δ = R Kᵀ (F + Kp Kpᵀ + K Kᵀ)⁻¹`` is MEMIT (Meng et al. 2023, eq. 14) for ``F = λC``, and
    AlphaEdit (Fang et al. 2025, eq. 14) for ``F = L2·I`` and projected keys: it then equals the
    published ``R KᵀP (KpKpᵀP + KKᵀP + L2·I)⁻¹`` by the push-through identity.

    Args:
        floor: ``F (d_in, d_in)``, symmetric positive definite.
        keys: ``K (d_in, n)``.
        residual: ``R (d_out, n)``.
        past: ``Kp (d_in, m)``, keys of earlier batches.

    Raises:
        NumericalError: rounding, or an entry that is not finite, leaves the system not positive
            definite.
    """
    everything = torch.cat([past, keys], dim=1).double()
    system = torch.addmm(floor.to(everything), everything, everything.T)
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        raise NumericalError(
            f"the least squares of these {len(system)} equations is singular in {system.dtype}: "
            "raise projector.l2, or model.moment_weight for a plain base, and look for keys that "
            "are not finite"
        )
    return Delta(residual.double(), torch.cholesky_solve(keys.double(), factor))


def keep_largest_change(delta: Tensor, weight: Tensor, percent: float) -> Tensor:
    """RECT (Gu et al. 2024, eq. 4): keep the entries that change most, relative to the weight.

    Args:
        delta: ``(d_out, d_in)``.
        weight: ``(d_out, d_in)``; an entry that is zero counts as changed infinitely.
        percent: of the entries to keep, in (0, 100].

    Returns:
        ``delta`` with all but exactly ``round(percent %)`` of its entries zeroed.

    Raises:
        ConfigError: that rounds to none.
    """
    count = round(delta.numel() * percent / 100)
    require(count > 0, "base.keep_percent", percent, f"enough to keep one of {delta.numel()}")
    change = (delta / weight.to(delta)).abs().nan_to_num(nan=0.0).flatten()
    kept = torch.zeros(delta.numel(), dtype=torch.bool, device=delta.device)
    kept[change.topk(count, sorted=False).indices] = True
    return torch.where(kept.view_as(delta), delta, 0)


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
