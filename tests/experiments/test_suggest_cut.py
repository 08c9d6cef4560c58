"""From measurements to layers and a cut."""

from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.experiments.causal_tracing import Trace
from alphaedit_plugin.experiments.suggest_cut import (
    USUAL,
    CutOutcome,
    choose_cut,
    choose_layers,
    spectra_of,
)
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment


def _trace(depth: int, peak: int) -> Trace:
    mlp = tuple(0.5 - 0.01 * abs(layer - peak) for layer in range(depth))
    return Trace(0.9, 0.1, mlp, mlp, 1, 10)


@pytest.mark.parametrize(
    ("depth", "peak", "single", "spread"),
    [
        (48, 15, 15, (13, 14, 15, 16, 17)),  # GPT-2 XL's, as MEMIT and AlphaEdit edit it
        (32, 6, 6, (4, 5, 6, 7, 8)),  # Llama's
        (32, 0, 0, (0, 1, 2, 3, 4)),
        (32, 31, 30, (26, 27, 28, 29, 30)),
        (12, 3, 3, (2, 3)),
        (2, 0, 0, (0,)),
        (2, 1, 0, (0,)),
    ],
)
def test_layers(depth: int, peak: int, single: int, spread: tuple[int, ...]) -> None:
    found = choose_layers(_trace(depth, peak))
    assert found.single == (single,)
    assert found.spread == spread


def test_one_block_is_too_few() -> None:
    with pytest.raises(ModelError, match="one block"):
        choose_layers(_trace(1, 0))


def test_outcomes_are_those_of_the_projector(gpt2_moments: dict[int, SecondMoment]) -> None:
    eigenvalues = spectra_of({1: gpt2_moments[1]})[1]
    for cut in USUAL:
        projector = Projector.fit(gpt2_moments[1], cut)
        outcome = CutOutcome.of(cut, eigenvalues)
        assert outcome.null == pytest.approx(projector.null_dimension / projector.d_in)
        assert outcome.degenerate == (projector.diagnosis() is not None)


def test_a_cut_follows_the_models_scale() -> None:
    """AlphaEdit's where it was made for such a spectrum; not where everything is null to it."""
    values = torch.cat([torch.full((20,), 5.0), torch.full((80,), 1e-4)]).double()
    assert choose_cut({0: values}) == Cut(CutRule.absolute, 2e-2)
    assert choose_cut({0: 1e-4 * values}) == Cut(CutRule.auto, 1.0)
