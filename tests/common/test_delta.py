from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.common.delta import Delta, factorise
from tests.tiny import relative


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 5))
def test_a_factored_delta_is_its_product(d_out: int, d_in: int, rank: int) -> None:
    left, right = torch.randn(d_out, rank), torch.randn(d_in, rank)
    delta = Delta(left, right)
    assert torch.allclose(delta.dense, left @ right.T)
    assert delta.norm == pytest.approx((left @ right.T).norm().item(), rel=1e-4, abs=1e-6)
    assert Delta(delta.dense).norm == pytest.approx(delta.norm, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_bad_entry_anywhere_is_not_finite(bad: float) -> None:
    fine, spoilt = torch.ones(3, 2), torch.ones(3, 2)
    spoilt[1, 1] = bad
    assert Delta(fine, fine).is_finite
    assert not Delta(spoilt).is_finite
    assert not Delta(spoilt, fine).is_finite
    assert not Delta(fine, spoilt).is_finite


def test_minus_is_exact_in_float64() -> None:
    delta = Delta(torch.ones(2, 1), torch.full((3, 1), 1e-9))
    assert torch.equal(delta.minus(torch.zeros(2, 3)).left, delta.dense.double())


@pytest.mark.parametrize("right", [None, torch.ones(3, 2)])
def test_it_moves_as_a_whole(right: torch.Tensor | None) -> None:
    moved = Delta(torch.ones(3, 2), right).to(torch.float64)
    assert moved.left.dtype == torch.float64
    assert (moved.right is None) == (right is None)
    assert moved.dense.dtype == torch.float64


@pytest.mark.parametrize(("rank", "columns"), [(0, 0), (3, 3), (20, 20), (60, None)])
def test_a_dense_delta_of_low_rank_is_factored(rank: int, columns: int | None) -> None:
    dense = torch.randn(80, rank).double() @ torch.randn(rank, 100).double()
    noisy = Delta(dense + 1e-9 * torch.randn(80, 100))
    found = noisy.factored(1e-6)
    assert (found.dense - noisy.left).norm() <= 1e-6
    assert (None if found.right is None else found.right.shape[1]) == columns
    assert found.factored(1e9) is found if columns is not None else found is noisy


def test_columns_are_those_of_both_factors() -> None:
    delta = Delta(torch.randn(4, 3), torch.randn(5, 3))
    parts = sum(delta.columns([place]).dense for place in range(3))
    assert torch.allclose(parts, delta.dense, atol=1e-6)
    with pytest.raises(ValueError, match="dense"):
        Delta(delta.dense).columns([0])


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


def test_a_sum_is_factored_only_where_that_is_smaller() -> None:
    one, dense = thin(2), Delta(torch.randn(24, 40))
    assert Delta.joined([one] * 3).right is not None
    assert Delta.joined([one] * 10).right is None
    assert relative(Delta.joined([one, dense]).dense, one.dense + dense.left) < 1e-6
