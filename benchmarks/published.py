"""The closed forms as published: dense ``d_in × d_in`` systems, on tensors alone.

Precision is that of the published code: MEMIT in float64, AlphaEdit and ROME in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def memit_solve(keys: Tensor, residual: Tensor, moment: Tensor, weight: float) -> Tensor:
    """``Δ = R Kᵀ (λC + K Kᵀ)⁻¹`` in float64 (Meng et al. 2023, eq. 14).

    Args:
        keys: ``K (d_in, n)``.
        residual: ``R (d_out, n)``.
        moment: ``C (d_in, d_in)``.
        weight: ``λ``.
    """
    keys = keys.double()
    adjusted = torch.linalg.solve(weight * moment.double() + keys @ keys.T, keys)
    return residual.double() @ adjusted.T


def alphaedit_solve(
    keys: Tensor, residual: Tensor, projection: Tensor, cache: Tensor, ridge: float
) -> Tensor:
    """``Δ = R KᵀP (KpKpᵀP + KKᵀP + L2·I)⁻¹`` (Fang et al. 2025, eq. 14), transposed and solved.

    Args:
        keys: ``K (d_in, n)``.
        residual: ``R (d_out, n)``.
        projection: ``P (d_in, d_in)``; its dtype is that of the computation.
        cache: ``Kp Kpᵀ (d_in, d_in)``.
        ridge: ``L2``.
    """
    keys, residual = keys.to(projection), residual.to(projection)
    identity = torch.eye(len(projection), dtype=projection.dtype, device=projection.device)
    system = projection @ (keys @ keys.T + cache) + ridge * identity
    return torch.linalg.solve(system, projection @ keys @ residual.T).T


def rome_solve(key: Tensor, subject_key: Tensor, residual: Tensor, inverse: Tensor) -> Tensor:
    """``Δ = (v* − W k₀) uᵀ / (uᵀk₀)``, ``u = C⁻¹k / ‖C⁻¹k‖`` (Meng et al. 2022, eq. 2).

    Args:
        key: ``k (d_in, 1)``, averaged over contexts.
        subject_key: ``k₀ (d_in, 1)``, of the bare prompt.
        residual: ``v* − W k₀ (d_out, 1)``.
        inverse: ``C⁻¹ (d_in, d_in)``.
    """
    direction = inverse @ key.to(inverse)
    direction = direction / direction.norm()
    return residual.to(direction) @ direction.T / (direction.T @ subject_key.to(direction))


def null_projection(moment: Tensor, rank: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """``P (d_in, d_in)`` from the singular vectors of ``C`` behind the first ``rank``."""
    vectors = torch.linalg.svd(moment.to(dtype), full_matrices=False)[0][:, rank:]
    return vectors @ vectors.T
