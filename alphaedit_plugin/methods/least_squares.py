"""The closed form that MEMIT and AlphaEdit share.

With ``A = [Kp, K]``, a linear map ``H`` of keys, and ``M = H A``,

    ``Δ = R (H K)ᵀ (M Mᵀ + w I)⁻¹ H  =  R [0 I] (Mᵀ M + w I)⁻¹ Mᵀ H``

is AlphaEdit (Fang et al. 2025, eq. 14) for ``H = P``, ``w = L2``, and MEMIT (Meng et al. 2023, eq.
14; with ``Kp``, MEMIT-seq) for ``H = L⁻¹``, ``C = L Lᵀ``, ``w = λ``. The left form has an equation
per dimension, the right one an equation per key. Both are symmetric positive definite, and solved
in float64.
"""

from __future__ import annotations

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.methods.dual import KeyMap
from alphaedit_plugin.methods.past_keys import PastKeys


def least_squares(
    key_map: KeyMap, weight: float, past: PastKeys, keys: Tensor, residual: Tensor
) -> Delta:
    """The delta that writes ``R`` at ``K`` and keeps ``Kp`` in place, by the smaller system.

    Args:
        key_map: ``H``.
        weight: ``w > 0``.
        past: ``Kp``, ``m`` keys.
        keys: ``K (d_in, n)``.
        residual: ``R (d_out, n)``.

    Raises:
        NumericalError: see `cholesky`.
    """
    right = past.system(key_map, weight).solve(past.blocks, keys)
    return Delta(residual.to(right), right)
