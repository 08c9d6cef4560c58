"""The protocol of a base method: (K, R, W, C) → Δ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError, ModelError
from alphaedit_plugin.common.registry import Registry
from alphaedit_plugin.methods.past_keys import PastKeys
from alphaedit_plugin.models.activations import Part
from alphaedit_plugin.nullspace.second_moment import SecondMoment


@dataclass(frozen=True)
class LayerProblem:
    """What one layer writes for one batch of requests.

    Attributes:
        layer: its number.
        keys: ``K (d_in, n)`` float32, averaged over context templates.
        subject_keys: ``(d_in, n)`` float32, of the bare prompts.
        residual: ``R (d_out, n)`` float32, this layer's share.
        weight: ``W (d_out, d_in)`` as it is now, in its own dtype.
        moment: second moment ``C`` of the layer, or ``None`` if the method does not need it.
        past: ``Kp``: keys of all earlier batches, taken after their write.
    """

    layer: int
    keys: Tensor
    subject_keys: Tensor
    residual: Tensor
    weight: Tensor
    moment: SecondMoment | None
    past: PastKeys = field(default_factory=PastKeys)

    def need_moment(self) -> SecondMoment:
        """The second moment.

        Raises:
            ConfigError: there is none for this layer.
        """
        if self.moment is None:
            raise missing_moment(self.layer)
        return self.moment


def missing_moment(layer: int) -> ConfigError:
    """The error for a method that reads the second moment of a layer without one."""
    return ConfigError(f"layer {layer} has no second moment: give a corpus or stats_dir")


class BaseMethod(ABC):
    """One locate-then-edit method; a subclass is a frozen dataclass of its settings.

    It has three steps, each of which the projector can follow: `solve` finds a delta, `shape`
    reworks it, and `finalize` reworks the sum of all deltas at the end of a run.

    Attributes:
        target: the part of the layer whose value the target search sets.
        one_by_one: requests of a batch are written one after another, each to the model that the
            one before left.
        least_squares: `solve` is a least-squares fit, which AlphaEdit's closed form can replace.
    """

    target: ClassVar[Part] = Part.BLOCK
    one_by_one: ClassVar[bool] = False
    least_squares: ClassVar[bool] = True

    @property
    def needs_moment(self) -> bool:
        """Whether `solve` reads the second moment."""
        return True

    @property
    def needs_history(self) -> bool:
        """Whether `solve` reads the keys of earlier batches."""
        return False

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse layers that the method cannot edit.

        Raises:
            ModelError: a residual would be spread over layers that do not ascend: writing an
                earlier one would change the keys of a later one that is written already.
        """
        if not self.one_by_one and list(layers) != sorted(layers):
            raise ModelError(
                f"layers {list(layers)} are edited one after another and must ascend: "
                f"give model.layers={sorted(layers)}"
            )

    @abstractmethod
    def solve(self, problem: LayerProblem) -> Delta:
        """The delta that writes ``problem.residual`` at ``problem.keys``."""

    def shape(self, delta: Delta, problem: LayerProblem) -> Delta:
        """Rework one batch's delta before it is written."""
        return delta

    def finalize(self, layer: int, accumulated: Tensor, pristine: Tensor) -> Delta | None:
        """What to add to ``W0`` instead of the sum of a run's deltas; ``None`` keeps the sum.

        Args:
            layer: its number.
            accumulated: ``Δ = W − W0 (d_out, d_in)`` float32.
            pristine: ``W0 (d_out, d_in)``.
        """
        return None

    def description(self) -> dict[str, Any]:
        """Its name, settings, and how its deltas are composed, in JSON, for a journal."""
        names: list[str] = [f.name for f in fields(self)] if is_dataclass(self) else []
        return {
            "name": type(self).__name__.lower(),
            "settings": {name: getattr(self, name) for name in names},
            "null_space": False,
            "one_by_one": self.one_by_one,
            "least_squares": self.least_squares,
        }

    def delta(self, problem: LayerProblem) -> Delta:
        """`solve`, then `shape`."""
        return self.shape(self.solve(problem), problem)


METHODS: Registry[type[BaseMethod]] = Registry("base method", "alphaedit_plugin.methods")
