"""From measurements to a proposal: which layers, and which cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.experiments.causal_tracing import Trace
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment

MAX_SPREAD = 5  # layers that an edit is spread over, as in MEMIT's and AlphaEdit's settings
BLOCKS_PER_LAYER = 5  # fewer in a model with fewer than 25 blocks
USUAL = (Cut(CutRule.absolute, 2e-2), Cut(CutRule.energy, 0.95), Cut(CutRule.auto, 1.0))


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


@dataclass(frozen=True)
class Spectra:
    """What the usual cuts do to the layers.

    Attributes:
        eigenvalues: per layer, descending.
        outcomes: per cut and layer.
    """

    eigenvalues: Mapping[int, torch.Tensor]
    outcomes: Mapping[str, Mapping[int, CutOutcome]]


def measure_cuts(moments: Mapping[int, SecondMoment]) -> Spectra:
    """Eigenvalues per layer, and what each of the usual cuts would leave.

    Raises:
        ProjectorError: a second moment is not finite.
    """
    # With the auto rule all eigenvalues are computed, so that any other cut can be applied.
    fitted = {n: Projector.fit(moment, Cut(CutRule.auto, 1.0)) for n, moment in moments.items()}
    values = {n: projector.eigenvalues.double().clamp_min(0) for n, projector in fitted.items()}
    outcomes = {str(cut): {n: _outcome(cut, one) for n, one in values.items()} for cut in USUAL}
    return Spectra(values, outcomes)


def _outcome(cut: Cut, values: torch.Tensor) -> CutOutcome:
    rank = cut.rank(values)
    null = 1 - rank / len(values)
    energy = float(values[:rank].sum() / values.sum())
    return CutOutcome(null, energy, null < 0.01 or rank < 0.001 * len(values))


def choose_cut(spectra: Spectra) -> Cut:
    """AlphaEdit's own cut where it protects a good part of what keys use; else the auto rule.

    An absolute cut suits models whose activations have the scale it was chosen on; the auto rule
    follows the model's own.
    """
    absolute = spectra.outcomes[str(USUAL[0])].values()
    fine = all(not o.degenerate and o.energy >= USUAL[1].value for o in absolute)
    return USUAL[0] if fine else USUAL[-1]
