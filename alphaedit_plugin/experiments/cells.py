"""What one cell of a comparison found: many edits with one method, evaluated on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from alphaedit_plugin.methods.base import METHODS
from alphaedit_plugin.metrics.evaluation import Evaluation
from alphaedit_plugin.metrics.shift import Shift

# To be said below every column of `Cell.seconds`.
SECONDS = (
    "Seconds are no comparison of methods: a target value is searched by the first cell that needs "
    "it, and by none where an earlier run has left it in the cache; and cells may run side by side "
    "(compare.share_targets=false compare.jobs=1 for neither)."
)


@dataclass(frozen=True)
class Point:
    """A cell after so many edits.

    Attributes:
        edits: so many.
        evaluation: of the edits so far, and of what must survive them.
        norms: per layer ``‖Δ‖ / ‖W0‖`` of the accumulated delta.
    """

    edits: int
    evaluation: Evaluation
    norms: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerReport:
    """What a run left in one layer.

    Attributes:
        relative_norm: ``‖Δ‖ / ‖W0‖`` of the accumulated delta.
        leakage: ``‖Δ U‖ / ‖Δ‖``; what old keys see of it. For plain cells too.
        unrounded_leakage: the same of the sum of deltas, before it was rounded into the weight.
        null_dimension: of the layer's projector.
        d_in: dimension of its keys.
    """

    relative_norm: float
    leakage: float
    unrounded_leakage: float
    null_dimension: int
    d_in: int


@dataclass(frozen=True)
class Cell:
    """One base, plain or projected, after its run.

    Attributes:
        base: the base method's name.
        null_space: whether it was projected.
        settings: what was tuned for it, for the report.
        points: evaluations, the last one after all edits and `finalize`.
        layers: what was left in each layer.
        seconds: spent editing, evaluation not counted.
        shift: how far hidden states of other prompts moved.
        abilities: by edits so far, 0 before any: what `Abilities.measure` found; empty unasked.
    """

    base: str
    null_space: bool
    settings: Mapping[str, object]
    points: tuple[Point, ...]
    layers: Mapping[int, LayerReport]
    seconds: float
    shift: Shift | None = None
    abilities: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.base.upper()}{' + null space' if self.null_space else ''}"

    @property
    def final(self) -> Evaluation:
        """After all edits."""
        return self.points[-1].evaluation


def numbers_of(bases: Iterable[str]) -> dict[str, int]:
    """A number per base method, the same in every picture, whichever others are in it.

    Those that are registered come first, so that only what nobody knows here may be renumbered.
    """
    known = list(METHODS)
    strange = sorted({base for base in bases if base not in METHODS})
    return {base: number for number, base in enumerate([*known, *strange])}
