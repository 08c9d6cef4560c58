"""MEMIT: least squares over a batch and several layers (Meng et al. 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import require
from alphaedit_plugin.methods.base import METHODS, BaseMethod, LayerProblem
from alphaedit_plugin.methods.least_squares import least_squares
from alphaedit_plugin.methods.past_keys import PastKeys

# λ where none is given: per dimension, as E[kᵀC⁻¹k] = d_in, whatever the scale of the keys. The
# published 15,000 of GPT-J and Llama 3 8B are 0.9 and 1.0, the 20,000 of GPT-2 XL 3.1.
PER_DIMENSION = 1.0


@dataclass(frozen=True)
class Memit(BaseMethod):
    """MEMIT.

    Attributes:
        moment_weight: ``λ``, the weight of the second moment against the edits; ``None`` for
            `PER_DIMENSION`.
        sequential_cache: also keep the outputs at the keys of earlier batches (MEMIT-seq).
    """

    moment_weight: float | None = None
    sequential_cache: bool = False

    def __post_init__(self) -> None:
        weight = self.moment_weight
        valid = weight is None or 0 < weight < math.inf
        require(valid, "base.moment_weight", weight, "positive and finite")

    @property
    def needs_history(self) -> bool:
        """For MEMIT-seq."""
        return self.sequential_cache

    def solve(self, problem: LayerProblem) -> Delta:
        """``R Kᵀ (λC + K Kᵀ)⁻¹`` (Meng et al. 2023, eq. 14); MEMIT-seq adds ``Kp Kpᵀ`` inside."""
        past = problem.past if self.sequential_cache else PastKeys()
        moment = problem.need_moment()
        weight = self.moment_weight or PER_DIMENSION * moment.dimension
        return least_squares(moment, weight, past, problem.keys, problem.residual)


METHODS.register("memit", Memit)
