"""ROME: one request, one layer, one rank-one delta (Meng et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.methods.base import METHODS, BaseMethod, LayerProblem
from alphaedit_plugin.models.activations import Part


@dataclass(frozen=True)
class Rome(BaseMethod):
    """ROME; several requests of a batch, or several layers, are written one after another.

    Attributes:
        use_moment: take ``u`` along ``C⁻¹k``; if false, along ``k`` (``C = I``), as in the
            settings that EasyEdit ships for ROME.
    """

    use_moment: bool = True

    target: ClassVar[Part] = Part.VALUE
    one_by_one: ClassVar[bool] = True
    least_squares: ClassVar[bool] = False

    @property
    def needs_moment(self) -> bool:
        """Unless ``C = I``."""
        return self.use_moment

    def solve(self, problem: LayerProblem) -> Delta:
        """See `rome_delta`."""
        keys = problem.keys
        whitened = problem.need_moment().whiten(keys) if self.use_moment else keys.double()
        return rome_delta(whitened, problem.subject_keys, problem.residual)


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


METHODS.register("rome", Rome)
