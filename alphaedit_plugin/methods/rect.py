"""RECT: MEMIT's delta, kept only where it changes the weight most (Gu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import require
from alphaedit_plugin.methods.base import LayerProblem
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.solve import keep_largest_change


@dataclass(frozen=True)
class Rect(Memit):
    """RECT.

    Attributes:
        keep_percent: of a delta's entries, by relative change; 20 in the paper, 40 in AlphaEdit's
            comparison.
    """

    keep_percent: float = 40.0

    def __post_init__(self) -> None:
        super().__post_init__()
        percent = self.keep_percent
        require(0 < percent <= 100, "base.keep_percent", percent, "above 0 and at most 100")

    def shape(self, delta: Delta, problem: LayerProblem) -> Delta:
        """See `solve.keep_largest_change`."""
        return Delta(keep_largest_change(delta.dense, problem.weight, self.keep_percent))
