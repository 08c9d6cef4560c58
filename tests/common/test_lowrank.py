from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.lowrank import factorise
from tests.tiny import relative


def thin(rank: int, d_out: int = 24, d_in: int = 40) -> Delta:
    return Delta(torch.randn(d_out, rank), torch.randn(d_in, rank))


@pytest.mark.parametrize("rank", [1, 7, 24, 60], ids="rank {}".format)
@pytest.mark.parametrize("dense", [False, True], ids=["factored", "dense"])
def test_the_product_is_the_delta_at_its_rank(rank: int, dense: bool) -> None:
    """Also with more columns than the delta has dimensions, as after many edits."""
    delta = Delta(thin(rank).dense) if dense else thin(rank)
    found = factorise(delta)
    assert found.rank == found.full_rank == min(rank, 24)
    assert found.error == 0
    assert relative(found.up @ found.down, delta.dense) < 1e-6


def test_repeated_columns_add_no_rank() -> None:
    one = thin(5)
    found = factorise(Delta.joined([one, one, Delta(-0.5 * one.left, one.right)]))
    assert found.rank == 5
    assert relative(found.up @ found.down, 1.5 * one.dense) < 1e-6


def test_truncation_keeps_the_best_part_and_says_what_it_loses() -> None:
    delta = thin(12)
    found = factorise(delta, 4)
    assert (found.rank, found.full_rank) == (4, 12)
    values = torch.linalg.svdvals(delta.dense.double())
    best = (values[4:].norm() / values.norm()).item()  # Eckart and Young
    assert found.error == pytest.approx(best, rel=1e-4)
    assert relative(found.up @ found.down, delta.dense) == pytest.approx(best, rel=1e-4)


def test_no_more_rank_than_there_is() -> None:
    assert factorise(thin(3), 16).rank == 3


def test_what_was_taken_back_has_no_rank() -> None:
    one = thin(2)
    assert factorise(Delta.joined([one, Delta(-one.left, one.right)])).rank == 0
    assert factorise(Delta(torch.zeros(3, 4))).rank == 0
