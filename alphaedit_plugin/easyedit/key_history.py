"""Keys of earlier edits of one weight, which AlphaEdit's closed form keeps in place.

The host restores weights behind our back after an independent edit, and writes plain edits
between ours. So a key counts for as long as the edit that wrote it is in the weight: edits that
were taken back leave no trace (cf. EasyEdit issue 613), and those that others were written on top
of are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alphaedit_plugin.data.conflicts import Asked, superseded
from alphaedit_plugin.methods.past_keys import PastKeys

Marks = dict[str, Tensor]


@dataclass(frozen=True)
class Written:
    """One edit of one weight.

    Attributes:
        found: mark of the weight before the edit.
        left: mark of the weight after it.
        keys: ``(d_in, n)``.
        requests: what was asked, one per key; empty where that is not known.
        before: the weight's outputs ``(d_out, n)`` at the keys, before the edit.
        after: the same, after it.
    """

    found: Tensor
    left: Tensor
    keys: Tensor
    requests: tuple[Asked, ...]
    before: Tensor
    after: Tensor

    def stands(self, weight: Tensor) -> bool:
        """Whether the outputs at the keys are nearer to what the edit left than to what it found.

        Args:
            weight: ``W (d_out, d_in)`` as it is now.
        """
        now = outputs(weight, self.keys)
        return bool((now - self.after).norm() < (now - self.before).norm())


@dataclass
class KeyHistory:
    """The history of one weight.

    Attributes:
        edits: those that are in the weight, oldest first.
        grown: what has grown from their keys so far.
    """

    edits: list[Written] = field(default_factory=list)
    grown: PastKeys = field(default_factory=PastKeys)

    def rewind(self, weight: Tensor) -> None:
        """Forget the edits that ``W (d_out, d_in)`` as it is now no longer holds."""
        now = mark(weight)
        for place, edit in reversed(list(enumerate(self.edits))):
            if torch.equal(edit.left, now):
                del self.edits[place + 1 :]
                return
            if torch.equal(edit.found, now):
                del self.edits[place:]
                return
        # A state we have not seen: something else was written, or only some edits taken back.
        self.edits = [edit for edit in self.edits if edit.stands(weight)]

    def past(self, arriving: Sequence[Asked] = ()) -> PastKeys:
        """``Kp``: the keys of these edits, but those that were contradicted, or are now.

        Args:
            arriving: requests that are about to be written.
        """
        lost = superseded([edit.requests for edit in self.edits], arriving)
        self.grown.hold([edit.keys for edit in self.edits], lost)
        return self.grown

    def remember(
        self, before: Tensor, after: Tensor, keys: Tensor, requests: Sequence[Asked] = ()
    ) -> None:
        """Add an edit.

        Args:
            before: ``W (d_out, d_in)`` before it.
            after: the same, after it.
            keys: ``(d_in, n)``, taken after it.
            requests: what was asked, one per key, where that is known.
        """
        outside = outputs(before, keys), outputs(after, keys)
        self.edits.append(Written(mark(before), mark(after), keys, tuple(requests), *outside))


def outputs(weight: Tensor, keys: Tensor) -> Tensor:
    """``W K (d_out, n)``, float32 on the CPU."""
    return (weight.detach().float() @ keys.to(weight.device, torch.float32)).cpu()


def mark(weight: Tensor) -> Tensor:
    """A short mark of a weight: a fixed random projection, equal for equal weights."""
    generator = torch.Generator().manual_seed(weight.shape[-1])
    direction = torch.randn(weight.shape[-1], generator=generator)
    return (weight.detach().float() @ direction.to(weight.device)).cpu()


def marks(weights: Mapping[str, Tensor]) -> Marks:
    """The mark of each weight."""
    return {name: mark(weight) for name, weight in weights.items()}


def same_marks(left: Marks, right: Marks) -> bool:
    """Whether two marks are of equal weights."""
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
