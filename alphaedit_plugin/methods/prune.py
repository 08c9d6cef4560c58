"""PRUNE: MEMIT per batch, restrained once the run is over (Ma et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import require
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.solve import Restraint, restrain


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
        """See `solve.restrain`."""
        return restrain(accumulated, pristine, Restraint(self.alpha))
