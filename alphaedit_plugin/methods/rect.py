"""RECT: MEMIT's delta, kept only where it changes the weight most (Gu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import require
from alphaedit_plugin.methods.base import METHODS, LayerProblem
from alphaedit_plugin.methods.memit import Memit


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
        """See `keep_largest_change`."""
        return Delta(keep_largest_change(delta.dense, problem.weight, self.keep_percent))


def keep_largest_change(delta: Tensor, weight: Tensor, percent: float) -> Tensor:
    """RECT (Gu et al. 2024, eq. 4): keep the entries that change most, relative to the weight.

    Args:
        delta: ``(d_out, d_in)``.
        weight: ``(d_out, d_in)``; the change of a zero entry counts as infinite.
        percent: of the entries to keep, in (0, 100].

    Returns:
        ``delta`` with all but ``round(percent %)`` of its entries set to zero.

    Raises:
        ConfigError: that rounds to none.
    """
    count = round(delta.numel() * percent / 100)
    require(count > 0, "base.keep_percent", percent, f"enough to keep one of {delta.numel()}")
    change = (delta / weight.to(delta)).abs().nan_to_num(nan=0.0).flatten()
    kept = torch.zeros(delta.numel(), dtype=torch.bool, device=delta.device)
    kept[change.topk(count, sorted=False).indices] = True
    return torch.where(kept.view_as(delta), delta, 0)


METHODS.register("rect", Rect)
