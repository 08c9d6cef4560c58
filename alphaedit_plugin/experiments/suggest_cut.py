"""From measurements to a proposal: which layers, and which cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.experiments.causal_tracing import Trace
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment

MAX_SPREAD = 5  # layers that an edit is spread over, as in MEMIT's and AlphaEdit's settings
BLOCKS_PER_LAYER = 5  # fewer in a model with fewer than 25 blocks
ALPHAEDIT = Cut(CutRule.absolute, 2e-2)
SHARE = Cut(CutRule.energy, 0.95)
AUTO = Cut(CutRule.auto, 1.0)
USUAL = (ALPHAEDIT, SHARE, AUTO)


@dataclass(frozen=True)
class Layers:
    """Proposed layers.

    Attributes:
        single: for methods that edit one layer: the peak.
        spread: for methods that spread an edit: some around the peak, ascending.
    """

    single: tuple[int, ...]
    spread: tuple[int, ...]


def choose_layers(trace: Trace) -> Layers:
    """The block with the largest indirect effect of its MLPs, and its neighbors.

    Never the last block: nothing after it carries an edit to the answer.

    Raises:
        ModelError: the model has one block only.
    """
    usable = len(trace.mlp) - 1
    if not usable:
        raise ModelError("a model with one block has no layer after which an edit could spread")
    peak = max(range(usable), key=lambda layer: trace.mlp[layer])
    count = max(1, min(MAX_SPREAD, len(trace.mlp) // BLOCKS_PER_LAYER))
    start = min(max(peak - count // 2, 0), usable - count)
    return Layers((peak,), tuple(range(start, start + count)))


def spectra_of(moments: Mapping[int, SecondMoment]) -> dict[int, Tensor]:
    """All eigenvalues per layer, descending.

    Raises:
        ProjectorError: a second moment is not finite.
    """
    fitted = {layer: Projector.fit(moment, AUTO) for layer, moment in moments.items()}
    return {layer: one.eigenvalues.double().clamp_min(0) for layer, one in fitted.items()}


@dataclass(frozen=True)
class CutOutcome:
    """What a cut leaves of one layer.

    Attributes:
        null: share of the dimensions that are in the null space.
        energy: share of the energy of keys that the projector protects.
        degenerate: the null space is nearly nothing or nearly everything.
    """

    null: float
    energy: float
    degenerate: bool

    @classmethod
    def of(cls, cut: Cut, eigenvalues: Tensor) -> CutOutcome:
        """For all eigenvalues of a layer, descending."""
        rank = cut.rank(eigenvalues)
        null = 1 - rank / len(eigenvalues)
        energy = float(eigenvalues[:rank].sum() / eigenvalues.sum())
        return cls(null, energy, null < 0.01 or rank < 0.001 * len(eigenvalues))


def choose_cut(spectra: Mapping[int, Tensor]) -> Cut:
    """AlphaEdit's own cut where it protects a good part of what keys use; else the auto rule.

    An absolute cut suits models whose activations have the scale it was chosen on; the auto rule
    follows the model's own.
    """
    outcomes = [CutOutcome.of(ALPHAEDIT, eigenvalues) for eigenvalues in spectra.values()]
    fine = all(not one.degenerate and one.energy >= SHARE.value for one in outcomes)
    return ALPHAEDIT if fine else AUTO
