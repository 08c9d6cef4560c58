"""How many tokens are enough: the halves of a corpus have to agree on what keys use."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.nullspace.collect import Halves
from alphaedit_plugin.nullspace.cut import Cut
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from alphaedit_plugin.nullspace.spectrum import decompose

logger = logging.getLogger(__name__)

GROWTH = 1.25  # tokens from one look to the next


@dataclass
class Convergence:
    """Stops reading once the subspaces of even and odd texts are close, in every layer.

    Attributes:
        tolerance: largest `disagreement`, in (0, 1).
        cut: chooses the subspace.
        first: tokens before the first look.
        seen: (tokens, disagreement) of every look so far.
    """

    tolerance: float
    cut: Cut
    first: int = 4096
    seen: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"fit.converge is {self.tolerance}: needs 0 < sine < 1")

    @property
    def reached(self) -> bool:
        """Whether the last look found agreement."""
        return bool(self.seen) and self.seen[-1][1] <= self.tolerance

    def due(self, before: int, now: int) -> bool:
        """See `statistics.Watch`; looks lie on a geometric series, as each costs an ``eigh``."""
        look = float(self.first)
        while look <= before:
            look *= GROWTH
        return look <= now

    def enough(self, halves: Halves, tokens: int) -> bool:
        """See `statistics.Watch`."""
        worst = max(self._of_layer(even, odd) for even, odd in halves.values())
        self.seen.append((tokens, worst))
        logger.info("after %d tokens the halves disagree by %.3f", tokens, worst)
        return self.reached

    def _of_layer(self, even: SecondMoment, odd: SecondMoment) -> float:
        if not even.count or not odd.count:
            return 1.0
        rank = decompose((even + odd).mean, self.cut).rank
        return disagreement(even, odd, rank)


def disagreement(one: SecondMoment, other: SecondMoment, rank: int) -> float:
    """How far apart two leading subspaces are, in the directions that carry energy.

    The root mean square sine of the angles between each eigenvector ``uᵢ`` of the one and the
    subspace ``U`` of the other, weighted by eigenvalue, ``√(Σ λᵢ ‖(I − U Uᵀ)uᵢ‖² / Σ λᵢ)``, and the
    larger of both ways. 0 where the subspaces are the same, 1 where they are orthogonal. Weighted,
    as the last eigenvectors before the cut are close to those after it and never settle.

    Args:
        one: spans its subspace by its ``rank`` leading eigenvectors.
        other: likewise.
        rank: dimension of both subspaces.
    """
    if rank == 0:
        return 0.0
    (a, first), (b, second) = (
        (values.flip(0)[:rank].clamp_min(0), vectors.flip(1)[:, :rank])
        for values, vectors in (torch.linalg.eigh(moment.mean) for moment in (one, other))
    )
    overlap = (first.T @ second).square()
    if a.sum() == 0 or b.sum() == 0:  # no energy, no directions to compare
        return 1.0
    shared = min((a @ overlap.sum(1) / a.sum()).item(), (b @ overlap.sum(0) / b.sum()).item())
    return max(0.0, 1 - shared) ** 0.5
