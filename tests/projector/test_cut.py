"""Cuts: how many directions each rule takes, and what no rule accepts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.projector import Cut, CutRule


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
