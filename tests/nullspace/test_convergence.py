"""Convergence: the halves of a corpus agree, or do not yet."""

from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.convergence import Convergence, disagreement
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.nullspace.spectra import moment_with
from tests.tiny import random_sequences

HALF = Cut(CutRule.rank, 20)


def spanning(*columns: int) -> SecondMoment:
    """Equal energy along some of four axes."""
    diagonal = torch.zeros(4).double()
    diagonal[list(columns)] = 1
    return SecondMoment(torch.diag(diagonal), 1)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (spanning(0, 1), spanning(0, 1), 0.0),
        (spanning(0, 1), spanning(2, 3), 1.0),
        (spanning(0, 1), spanning(1, 2), 0.5**0.5),
    ],
)
def test_disagreement(one: SecondMoment, other: SecondMoment, expected: float) -> None:
    assert disagreement(one, other, 2) == pytest.approx(expected, abs=1e-6)
    assert disagreement(other, one, 2) == pytest.approx(expected, abs=1e-6)


def test_disagreement_is_the_sine_of_the_angle() -> None:
    for angle in (0.1, 0.7, 1.5):
        u = torch.tensor([angle]).double()
        turned = torch.cat([u.cos(), u.sin()])
        one, other = torch.diag(torch.tensor([1.0, 0.0]).double()), torch.outer(turned, turned)
        found = disagreement(SecondMoment(one, 1), SecondMoment(other, 1), 1)
        assert found == pytest.approx(u.sin().item(), abs=1e-6)


def test_nothing_cannot_disagree() -> None:
    one, other = moment_with([2.0, 1.0]), moment_with([2.0, 1.0], seed=1)
    assert disagreement(one, other, 0) == 0
    silent = SecondMoment(torch.zeros(2, 2).double(), 1)
    assert disagreement(one, silent, 1) == 1
    assert disagreement(silent, silent, 1) == 1


def test_looks_are_ever_further_apart() -> None:
    watch = Convergence(0.1, HALF, first=100)
    looks = [now for now in range(0, 1000, 10) if watch.due(now - 10, now)]
    assert looks == [100, 130, 160, 200, 250, 310, 390, 480, 600, 750, 940]


def test_it_stops_once_the_halves_agree(gpt2: EditableModel) -> None:
    rows = random_sequences(len(gpt2.tokenizer), count=800)
    watch = Convergence(0.15, HALF, first=200)
    found = collect_second_moments(gpt2, rows, [1, 2], budget=100, watch=watch)
    assert watch.reached
    assert found[1].count == watch.seen[-1][0] < 800 * 20
    assert watch.seen[-1][1] <= 0.15 < watch.seen[-2][1]
    never = Convergence(1e-6, HALF, first=200)
    assert collect_second_moments(gpt2, rows, [1], budget=100, watch=never)[1].count == 800 * 20
    assert not never.reached


def test_one_text_has_no_halves(gpt2: EditableModel) -> None:
    watch = Convergence(0.9, HALF, first=1)
    assert collect_second_moments(gpt2, [[1, 2, 3]], [1], watch=watch)[1].count == 3
    assert watch.seen == [(3, 1.0)]


def test_one_long_text_has_the_halves_of_its_windows(gpt2: EditableModel) -> None:
    ids = [token for row in random_sequences(len(gpt2.tokenizer), count=400) for token in row]
    watch = Convergence(0.2, HALF, first=200)
    collect_second_moments(gpt2, [ids], [1], budget=100, watch=watch)
    assert watch.reached


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1, float("nan")])
def test_a_tolerance_that_is_none(tolerance: float) -> None:
    with pytest.raises(ConfigError, match=r"fit\.converge is"):
        Convergence(tolerance, HALF)
