"""Keys of earlier edits of one weight, which AlphaEdit's closed form keeps in place.

The host restores weights after an independent edit without telling us, and writes plain edits
between ours. So a key counts for as long as the edit that wrote it is in the weight: edits that
were undone leave no trace (cf. EasyEdit issue 613), and those that others were written on top of
are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alphaedit_plugin.data.conflicts import Asked, superseded
from alphaedit_plugin.methods.past_keys import PastKeys


@dataclass(frozen=True)
class WeightEdit:
    """One edit of one weight.

    Attributes:
        keys: ``(d_in, n)``.
        requests: what was asked, one per key; empty where that is not known.
        marks: of the weight before the edit and after it, see `mark`.
        outputs: ``W K (d_out, n)`` before the edit and after it.
    """

    keys: Tensor
    requests: tuple[Asked, ...]
    marks: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, Tensor]

    def stands(self, weight: Tensor) -> bool:
        """Whether ``W K`` is nearer now to what it was after the edit than before it."""
        now = outputs(weight, self.keys)
        before, after = self.outputs
        return bool((now - after).norm() < (now - before).norm())


@dataclass
class KeyHistory:
    """The edits that are in one weight, oldest first, and what has grown from their keys."""

    edits: list[WeightEdit] = field(default_factory=list)
    grown: PastKeys = field(default_factory=PastKeys)

    def rewind(self, weight: Tensor) -> None:
        """Forget the edits that ``W (d_out, d_in)`` as it is now no longer holds."""
        now = mark(weight)
        for number, edit in reversed(list(enumerate(self.edits))):
            before, after = edit.marks
            if torch.equal(after, now):
                del self.edits[number + 1 :]
                return
            if torch.equal(before, now):
                del self.edits[number:]
                return
        # An unknown state: something else was written, or only some of the edits were undone.
        self.edits = [edit for edit in self.edits if edit.stands(weight)]

    def past(self, arriving: Sequence[Asked] = ()) -> PastKeys:
        """``Kp``: the keys of these edits, except those contradicted since, or by ``arriving``."""
        lost = superseded([edit.requests for edit in self.edits], arriving)
        self.grown.hold([edit.keys for edit in self.edits], lost)
        return self.grown

    def remember(
        self, before: Tensor, after: Tensor, keys: Tensor, requests: Sequence[Asked] = ()
    ) -> None:
        """Add an edit: ``W (d_out, d_in)`` before and after it, and its keys ``(d_in, n)``."""
        marks = mark(before), mark(after)
        both = outputs(before, keys), outputs(after, keys)
        self.edits.append(WeightEdit(keys, tuple(requests), marks, both))


def outputs(weight: Tensor, keys: Tensor) -> Tensor:
    """``W K (d_out, n)``, float32 on the CPU."""
    return (weight.detach().float() @ keys.to(weight.device, torch.float32)).cpu()


def mark(weight: Tensor) -> Tensor:
    """A short mark of a weight: a fixed random projection, equal for equal weights."""
    generator = torch.Generator().manual_seed(weight.shape[-1])
    direction = torch.randn(weight.shape[-1], generator=generator)
    return (weight.detach().float() @ direction.to(weight.device)).cpu()
