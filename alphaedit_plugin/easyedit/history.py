"""Keys of earlier edits of one model, which AlphaEdit's closed form keeps in place.

The host restores weights behind our back after an independent edit. So each entry remembers what
the weights looked like after it, and only the entries whose weights are still there count: edits
that were taken back leave no trace (cf. EasyEdit issue 613).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Marks = dict[str, Tensor]


@dataclass
class KeyHistory:
    """The history of one model.

    Attributes:
        entries: marks of the weights after an edit, and the keys ``(d_in, n)`` it wrote, by weight.
    """

    entries: list[tuple[Marks, dict[str, Tensor]]] = field(default_factory=list)

    def rewind(self, weights: Mapping[str, Tensor]) -> None:
        """Forget the entries that the weights as they are now no longer hold."""
        now = marks(weights)
        while self.entries and not same_marks(self.entries[-1][0], now):
            self.entries.pop()

    def past_keys(self, name: str) -> Tensor | None:
        """``Kp (d_in, m)`` of one weight; ``None`` where there is none."""
        found = [keys[name] for _, keys in self.entries if name in keys]
        return torch.cat(found, dim=1) if found else None

    def remember(self, weights: Mapping[str, Tensor], keys: dict[str, Tensor]) -> None:
        """Add an edit, taken after it was written."""
        self.entries.append((marks(weights), keys))


def marks(weights: Mapping[str, Tensor]) -> Marks:
    """A short mark of each weight: a fixed random projection, equal for equal weights."""
    found = {}
    for name, weight in weights.items():
        generator = torch.Generator().manual_seed(weight.shape[-1])
        direction = torch.randn(weight.shape[-1], generator=generator)
        found[name] = (weight.detach().float() @ direction.to(weight.device)).cpu()
    return found


def same_marks(left: Marks, right: Marks) -> bool:
    """Whether two marks are of equal weights."""
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
