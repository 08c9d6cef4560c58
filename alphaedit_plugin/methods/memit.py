"""MEMIT: least squares over a batch and several layers (Meng et al. 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import require
from alphaedit_plugin.methods.base import METHODS, BaseMethod, LayerProblem
from alphaedit_plugin.methods.least_squares import least_squares
from alphaedit_plugin.methods.past_keys import PastKeys


@dataclass(frozen=True)
class Memit(BaseMethod):
    """MEMIT.

    Attributes:
        moment_weight: ``λ``, the weight of the second moment against the edits.
        sequential_cache: also keep the outputs at the keys of earlier batches (MEMIT-seq).
    """

    moment_weight: float = 15_000.0
    sequential_cache: bool = False

    def __post_init__(self) -> None:
        weight = self.moment_weight
        require(0 < weight < math.inf, "base.moment_weight", weight, "positive and finite")

    @property
    def needs_history(self) -> bool:
        """For MEMIT-seq."""
        return self.sequential_cache

    def solve(self, problem: LayerProblem) -> Delta:
        """``R Kᵀ (λC + K Kᵀ)⁻¹`` (Meng et al. 2023, eq. 14); MEMIT-seq adds ``Kp Kpᵀ`` inside."""
        past = problem.past if self.sequential_cache else PastKeys()
        return least_squares(
            problem.need_moment(), self.moment_weight, past, problem.keys, problem.residual
        )


METHODS.register("memit", Memit)
