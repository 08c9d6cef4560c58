"""Second moments: sums, means, whitening."""

from __future__ import annotations

import logging
from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.nullspace.second_moment import BLOCK, MomentSum, SecondMoment
from tests.tiny import relative


def moment_of(keys: Tensor) -> SecondMoment:
    return SecondMoment((keys.T @ keys).double(), len(keys))


def test_whitening_solves_with_the_moment() -> None:
    moment, keys = moment_of(torch.randn(100, 8)), torch.randn(8, 3)
    whitened = moment.whiten(keys)
    assert whitened.dtype == torch.float64
    assert relative(moment.mean @ whitened, keys) < 1e-10


def test_a_regular_moment_gets_no_jitter(caplog: pytest.LogCaptureFixture) -> None:
    moment = moment_of(torch.randn(100, 8))
    assert relative(moment.factor @ moment.factor.T, moment.mean) < 1e-12
    assert not caplog.records


def test_a_singular_moment_is_whitened_within_its_span(caplog: pytest.LogCaptureFixture) -> None:
    moment = moment_of(torch.randn(3, 8))  # fewer keys than dimensions
    with caplog.at_level(logging.WARNING):
        seen = moment.mean @ torch.randn(8, 2, dtype=torch.float64)
        back = moment.mean @ moment.whiten(seen)
    assert relative(back, seen) < 1e-5
    assert "3 keys in 8 dimensions is singular" in caplog.text


@pytest.mark.parametrize(
    ("total", "message"),
    [
        (torch.full((2, 2), torch.nan), "not finite"),
        (torch.diag(torch.tensor([1.0, -1.0])), "not positive semi-definite"),
        (torch.zeros(2, 2), "not positive semi-definite"),
    ],
)
def test_a_moment_that_cannot_be_one_is_refused(total: Tensor, message: str) -> None:
    with pytest.raises(NumericalError, match=message):
        SecondMoment(total.double(), 1).whiten(torch.ones(2, 1))


# ---------------------------------------------------------------------------------------------
# Sums


@pytest.mark.parametrize("d_in", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_a_sum_is_that_of_the_products(d_in: int) -> None:
    keys = torch.randn(30, d_in)
    found = MomentSum.empty(d_in, torch.device("cpu"))
    found.add(keys[:20])
    found.add(keys[20:])
    assert found.count == 30
    assert relative(found.total, keys.double().T @ keys.double()) < 1e-6


def test_a_long_sum_does_not_lose_small_keys() -> None:
    """A float32 sum stops growing where a term is below its rounding: float64 does not."""
    large, small = torch.full((1, 4), 4096.0), torch.full((1, 4), 0.5)
    found, naive = MomentSum.empty(4, torch.device("cpu")), torch.zeros(4, 4)
    for keys in (large, *[small] * 1000):
        found.add(keys)
        naive += keys.T @ keys
    expected = 4096.0**2 + 1000 * 0.25
    assert (found.total == expected).all()
    assert (naive != expected).any()


def test_adding_takes_less_than_a_second_matrix() -> None:
    """What is allocated while adding, at its peak: never a ``d_in²`` matrix beside the sum."""
    d_in = 6 * BLOCK
    keys, found = torch.randn(4, d_in), MomentSum.empty(d_in, torch.device("cpu"))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        found.add(keys)
    assert trace.profiler is not None
    events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    assert max(accumulate(steps)) == (4 + 8) * BLOCK * d_in < d_in**2 * 8  # see memory_needed


def test_a_key_that_is_not_finite_shows() -> None:
    found = MomentSum.empty(3, torch.device("cpu"))
    found.add(torch.randn(5, 3))
    assert found.is_finite
    found.add(torch.tensor([[1.0, torch.inf, 0.0]]))
    assert not found.is_finite
