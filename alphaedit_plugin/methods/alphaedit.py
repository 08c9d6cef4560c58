"""AlphaEdit: any base method, with the null-space projector as the last to touch its delta."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError, ProjectorError, require
from alphaedit_plugin.methods.base import BaseMethod, LayerProblem
from alphaedit_plugin.methods.dual import KeyMap
from alphaedit_plugin.methods.least_squares import least_squares
from alphaedit_plugin.methods.memit import PER_DIMENSION
from alphaedit_plugin.models.activations import Part
from alphaedit_plugin.nullspace.cut import Mode
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.whitened import WhitenedNullSpace

PUBLISHED_RIDGE = 10.0  # where a projector's file does not say how large keys are


@dataclass(frozen=True)
class AlphaEdit(BaseMethod):
    """A base method confined to the null space.

    Attributes:
        base: the method that is wrapped.
        projectors: one per edited layer.
        mode: how the null space enters.
        ridge: AlphaEdit's ``L2``, in ``solve`` mode; ``None`` for what MEMIT's own ``λC``, with
            `PER_DIMENSION`, is along the null space's mean direction.
        moment_weight: ``λ`` of the second moment inside the null space, in ``solve`` mode; none in
            AlphaEdit, where all directions of the null space count the same.
    """

    base: BaseMethod
    projectors: Mapping[int, Projector]
    mode: Mode = Mode.auto
    ridge: float | None = None
    moment_weight: float = 0.0
    _whitened: dict[int, WhitenedNullSpace] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode is Mode.solve and not self.base.least_squares:
            raise ConfigError(
                f"{type(self.base).__name__} is not a least-squares method, so there is no closed "
                "form for projector.mode=solve to replace: use projector.mode=post (or auto)"
            )
        valid = not self.solves or self.ridge is None or 0 < self.ridge < math.inf
        require(valid, "projector.l2", self.ridge, "positive and finite")
        valid = 0 <= self.moment_weight < math.inf
        require(valid, "projector.moment_weight", self.moment_weight, "at least 0 and finite")

    @property
    def solves(self) -> bool:
        """Whether AlphaEdit's closed form is used."""
        return self.base.least_squares and self.mode is not Mode.post

    @property
    def target(self) -> Part:  # type: ignore[override]
        """See `BaseMethod`."""
        return self.base.target

    @property
    def one_by_one(self) -> bool:  # type: ignore[override]
        """See `BaseMethod`."""
        return self.base.one_by_one

    @property
    def needs_moment(self) -> bool:
        """The closed form reads only the projector, unless the second moment has a weight in it."""
        return self.moment_weight > 0 if self.solves else self.base.needs_moment

    @property
    def needs_history(self) -> bool:
        """The closed form keeps the outputs at earlier keys."""
        return self.base.needs_history or self.solves

    def description(self) -> dict[str, Any]:
        """The base's, and the projectors'."""
        return self.base.description() | {
            "null_space": True,
            "mode": Mode.solve.value if self.solves else Mode.post.value,
            "l2": self.ridge if self.solves else None,
            "moment_weight": self.moment_weight if self.solves else None,
            "projectors": {
                layer: {"cut": str(p.cut), "rank": p.rank, "d_in": p.d_in, "tokens": p.tokens}
                for layer, p in self.projectors.items()
            },
        }

    def check_layers(self, layers: Sequence[int]) -> None:
        """See `BaseMethod.check_layers`.

        Raises:
            ProjectorError: a layer without a projector.
        """
        missing = [layer for layer in layers if layer not in self.projectors]
        if missing:
            raise ProjectorError(
                f"no projector for layer {missing[0]}, only for layers {sorted(self.projectors)}: "
                "fit one for each edited layer"
            )
        self.base.check_layers(layers)

    def solve(self, problem: LayerProblem) -> Delta:
        """``Δ = R K̃ᵀ (K̃p K̃pᵀ + K̃ K̃ᵀ + L2·I)⁻¹`` with ``K̃ = P K``, or the base's delta.

        By the push-through identity this is ``R KᵀP (KpKpᵀP + KKᵀP + L2·I)⁻¹``, as published
        (Fang et al. 2025, eq. 14). With ``moment_weight``, ``λ P C P`` is added inside.
        """
        if not self.solves:
            return self.base.solve(problem)
        key_map: KeyMap = self.projectors[problem.layer]
        weight = self.ridge_of(problem.layer)
        if self.moment_weight:
            key_map, weight = self._whiten(problem), 1.0
        return least_squares(key_map, weight, problem.past, problem.keys, problem.residual)

    def ridge_of(self, layer: int) -> float:
        """``L2`` of a layer."""
        projector = self.projectors[layer]
        if self.ridge is not None:
            return self.ridge
        return PER_DIMENSION * projector.d_in * projector.null_eigenvalue or PUBLISHED_RIDGE

    def _whiten(self, problem: LayerProblem) -> WhitenedNullSpace:
        """The same object each time: a system of keys grows under it."""
        moment, known = problem.need_moment(), self._whitened.get(problem.layer)
        if known is None or known.moment is not moment:
            projector = self.projectors[problem.layer]
            ridge = self.ridge_of(problem.layer)
            known = WhitenedNullSpace(projector, moment, self.moment_weight, ridge)
            self._whitened[problem.layer] = known
        return known

    def shape(self, delta: Delta, problem: LayerProblem) -> Delta:
        """The base's, then projected, unless it still is what the closed form gave."""
        shaped = self.base.shape(delta, problem)
        if self.solves and shaped is delta:
            return delta
        return self.projectors[problem.layer].project(shaped)

    def finalize(self, layer: int, accumulated: Tensor, pristine: Tensor) -> Delta | None:
        """The base's, then projected."""
        final = self.base.finalize(layer, accumulated, pristine)
        return None if final is None else self.projectors[layer].project(final)
