"""The null space, where what old keys still have in it counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment


@dataclass(frozen=True)
class WhitenedNullSpace:
    """``L⁻¹ P``, where ``L Lᵀ = λ P C P + L2·I``.

    The cut calls a direction null or not; among those that are, old keys are larger along some than
    along others. A least-squares fit under this map, with a weight of 1, pays for each as much as
    MEMIT does: ``λ`` of the second moment.

    Attributes:
        moment: of ``C``.
        weight: ``λ``.
        ridge: ``L2``.
    """

    projector: Projector
    moment: SecondMoment
    weight: float
    ridge: float

    @property
    def dimension(self) -> int:
        """``d_in``."""
        return self.projector.d_in

    @property
    def reduced(self) -> WhitenedNullSpace:
        """Itself: its images have no basis of their own."""
        return self

    def image(self, keys: Tensor) -> Tensor:
        """``L⁻¹ P keys (d_in, n)`` float64."""
        return self._ridged.image(self.projector.apply(keys))

    def adjoint(self, images: Tensor) -> Tensor:
        """``P L⁻ᵀ images (d_in, n)`` float64."""
        return self.projector.apply(self._ridged.adjoint(images))

    @cached_property
    def _ridged(self) -> SecondMoment:
        """``λ P C P + L2·I``."""
        total = self.projector.apply(self.projector.apply(self.moment.mean).T) * self.weight
        total = (total + total.T) / 2
        total.diagonal().add_(self.ridge)
        return SecondMoment(total, 1)
