"""Cuts: how many directions each rule takes, and what no rule accepts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from tests.tiny import DEPTH, random_sequences


@pytest.mark.parametrize(
    ("rule", "value", "rank"),
    [
        (CutRule.absolute, 4.0, 3),  # eigenvalues at the cut belong to U
        (CutRule.absolute, 4.01, 2),
        (CutRule.absolute, 100.0, 0),
        (CutRule.absolute, 1e-9, 4),
        (CutRule.rank, 0, 0),
        (CutRule.rank, 2, 2),
        (CutRule.rank, 5, 5),
        (CutRule.energy, 0.5, 1),
        (CutRule.energy, 0.75, 2),
        (CutRule.energy, 0.76, 3),
        (CutRule.energy, 1.0, 4),
        (CutRule.energy, 1e-6, 1),
    ],
)
def test_cuts(rule: CutRule, value: float, rank: int) -> None:
    eigenvalues = torch.tensor([10.0, 5.0, 4.0, 1.0, 0.0]).double()
    assert Cut(rule, value).rank(eigenvalues) == rank


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (CutRule.absolute, 0.0),
        (CutRule.absolute, -1.0),
        (CutRule.absolute, float("nan")),
        (CutRule.rank, -1),
        (CutRule.rank, 6),
        (CutRule.rank, 2.5),
        (CutRule.energy, 0.0),
        (CutRule.energy, 1.1),
        (CutRule.energy, float("nan")),
        (CutRule.auto, 0.0),
        (CutRule.auto, float("inf")),
    ],
)
def test_a_cut_out_of_range_is_refused_with_its_value(rule: CutRule, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{rule.value}={value:g}:"):
        Cut(rule, value).rank(torch.linspace(5, 1, 5))


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.floats(0.01, 1))
def test_an_energy_cut_is_the_smallest_that_holds_the_share(
    spectrum: list[float], share: float
) -> None:
    eigenvalues = torch.tensor(sorted(spectrum, reverse=True)).double()
    rank = Cut(CutRule.energy, share).rank(eigenvalues)
    held = eigenvalues.cumsum(0) / eigenvalues.sum()
    assert held[rank - 1] >= share - 1e-12
    assert rank == 1 or held[rank - 2] < share + 1e-12


# ---------------------------------------------------------------------------------------------
# The cut that follows the spectrum


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30),
    st.floats(-6, 6),
    st.floats(0.2, 5),
)
def test_auto_does_not_change_with_the_scale(
    spectrum: list[float], exponent: float, value: float
) -> None:
    eigenvalues = torch.tensor(sorted(spectrum, reverse=True)).double()
    roots = eigenvalues.sqrt()
    if ((roots / (value * roots.mean()) - 1).abs() < 1e-9).any():
        return  # at the cut itself rounding decides
    cut = Cut(CutRule.auto, value)
    assert cut.rank(eigenvalues) == cut.rank(eigenvalues * 10**exponent)


def test_auto_is_the_knee_of_the_cumulative_root() -> None:
    """There the curve is furthest above the straight line from its start to its end."""
    roots = torch.logspace(2, -3, 50).double()
    share = roots.cumsum(0) / roots.sum()
    above = share - torch.arange(1, 51) / 50
    assert Cut(CutRule.auto, 1.0).rank(roots.square()) == int(above.argmax()) + 1


def test_auto_is_not_moved_by_one_huge_eigenvalue() -> None:
    eigenvalues = torch.logspace(0, -4, 1000).double()
    auto, energy = Cut(CutRule.auto, 1.0), Cut(CutRule.energy, 0.9)
    usual, by_energy = auto.rank(eigenvalues), energy.rank(eigenvalues)
    eigenvalues[0] *= 1e3
    assert abs(auto.rank(eigenvalues) - usual) < 0.05 * len(eigenvalues)
    assert energy.rank(eigenvalues) == 1 < by_energy


def test_auto_of_a_moment_of_few_keys_spans_them() -> None:
    eigenvalues = torch.tensor([5.0, 4.0, 3.0] + [-1e-12] * 97).double()
    assert Cut(CutRule.auto, 1.0).rank(eigenvalues) == 3


def with_activations_times(lm: EditableModel, factor: float) -> EditableModel:
    """Scale what produces the keys: all of the MLPs but their down-projections."""
    for layer in range(DEPTH):
        mlp, down = lm.block(layer).mlp, lm.down_proj(layer)
        with torch.no_grad():
            for module in mlp.children():
                if module is not down:
                    for parameter in module.parameters():
                        parameter.mul_(factor)
    return lm


@pytest.mark.parametrize(("factor", "absolute"), [(1e-3, "identity"), (1.0, None), (1e3, "near 0")])
def test_auto_divides_where_absolute_degenerates(
    lm: EditableModel, factor: float, absolute: str | None
) -> None:
    """On all three architectures, whatever the scale of their activations."""
    scaled = with_activations_times(lm, factor)
    rows = random_sequences(len(lm.tokenizer))
    for moment in collect_second_moments(scaled, rows, [0, DEPTH - 1]).values():
        published = Projector.fit(moment, Cut(CutRule.absolute, 2e-2))
        share = published.null_dimension / published.d_in
        if absolute is not None:  # a few neurons may never fire, at any scale
            assert share > 0.999 if absolute == "identity" else share < 0.05
            assert absolute in (published.diagnosis() or absolute)
        auto = Projector.fit(moment, Cut(CutRule.auto, 1.0))
        assert auto.diagnosis() is None
        assert 0.1 < auto.null_dimension / auto.d_in < 0.9
