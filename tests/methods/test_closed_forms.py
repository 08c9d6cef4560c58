"""What the least-squares bases and AlphaEdit solve, against the formulas as published."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import LayerProblem
from alphaedit_plugin.methods.least_squares import least_squares
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.past_keys import PastKeys
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from benchmarks.published import alphaedit_solve
from tests.methods.test_solve import System, published_null_space, systems
from tests.tiny import relative


def memit_of(s: System, weight: float, past: PastKeys, cache: bool) -> Tensor:
    problem = LayerProblem(0, s.keys, s.keys, s.residual, s.weight, SecondMoment(s.moment, 1), past)
    return Memit(weight, sequential_cache=cache).solve(problem).dense


@given(systems(), st.floats(-2, 4))
def test_memit_is_the_published_least_squares(s: System, log_weight: float) -> None:
    weight = 10**log_weight
    expected = s.residual @ s.keys.T @ torch.linalg.inv(weight * s.moment + s.keys @ s.keys.T)
    assert relative(memit_of(s, weight, PastKeys((s.past,)), False), expected) < 1e-6


@given(systems(), st.floats(-2, 4))
def test_memit_with_a_cache_keeps_past_keys_in_place(s: System, log_weight: float) -> None:
    weight = 10**log_weight
    system = weight * s.moment + s.past @ s.past.T + s.keys @ s.keys.T
    expected = torch.linalg.solve(system, s.keys @ s.residual.T).T
    assert relative(memit_of(s, weight, PastKeys((s.past,)), True), expected) < 1e-6


def projector_of(s: System) -> Projector:
    """With P's own eigenvalues (0 and 1) for a spectrum, a cut between them gives P back."""
    used = round(len(s.keys) - s.projector.trace().item())
    complement = torch.eye(len(s.keys)).double() - s.projector
    return Projector.fit(SecondMoment(complement, 1), Cut(CutRule.rank, used))


@given(systems(), st.floats(-2, 3), st.floats(-2, 4))
def test_the_second_moment_may_count_in_the_null_space(
    s: System, log_ridge: float, log_weight: float
) -> None:
    """``R KᵀP (P (λC + KpKpᵀ + KKᵀ) P + L2·I)⁻¹``; where nothing is used it is MEMIT's."""
    ridge, weight, projector = 10**log_ridge, 10**log_weight, projector_of(s)
    method = AlphaEdit(Memit(), {0: projector}, ridge=ridge, moment_weight=weight)
    assert method.needs_moment
    moment = SecondMoment(s.moment, 1)
    problem = LayerProblem(0, s.keys, s.keys, s.residual, s.weight, moment, PastKeys((s.past,)))
    inside = weight * s.moment + s.past @ s.past.T + s.keys @ s.keys.T
    system = s.projector @ inside @ s.projector + ridge * torch.eye(len(s.keys)).double()
    expected = s.residual @ s.keys.T @ s.projector @ torch.linalg.inv(system)
    delta = method.delta(problem)
    assert relative(delta.dense, expected) < 1e-5
    assert projector.leakage(delta) < 1e-6
    again = method.delta(problem)  # from the system that is kept
    assert torch.equal(again.dense, delta.dense)


@given(systems(), st.floats(-3, 3), st.booleans())
def test_defaults_follow_the_keys(s: System, log_scale: float, null_space: bool) -> None:
    """Keys of another scale, and the fit is as good: ``Δ`` is smaller by as much."""
    scale, past = 10**log_scale, PastKeys()
    made = []
    for factor in (1.0, scale):
        moment = SecondMoment(factor**2 * s.moment, 1)
        projector = Projector.fit(moment, Cut(CutRule.rank, len(s.keys) // 2))
        method = AlphaEdit(Memit(), {0: projector}) if null_space else Memit()
        keys = factor * s.keys
        problem = LayerProblem(0, keys, keys, s.residual, s.weight, moment, past)
        made.append(factor * method.delta(problem).dense)
    assert relative(*made) < 1e-4


def test_the_ridge_is_what_memits_is_along_the_mean_null_direction() -> None:
    moment = SecondMoment(torch.diag(torch.tensor([9.0, 4.0, 0.5, 0.1, 0.3])).double(), 1)
    projector = Projector.fit(moment, Cut(CutRule.rank, 2))
    assert projector.null_eigenvalue == pytest.approx(0.3)
    assert AlphaEdit(Memit(), {0: projector}).ridge_of(0) == pytest.approx(5 * 0.3)
    unknown = replace(projector, null_eigenvalue=0.0)  # of a published file
    assert AlphaEdit(Memit(), {0: unknown}).ridge_of(0) == 10


@given(systems(), st.floats(-2, 3), st.booleans())
def test_the_null_space_on_either_side_is_the_published_form(
    s: System, log_ridge: float, without_past: bool
) -> None:
    """Up to 60 keys of up to 24 dimensions: both the dual and the primal side are taken."""
    if without_past:
        s.past = s.past[:, :0]
    projector, ridge, past = projector_of(s), 10**log_ridge, PastKeys((s.past,))
    actual = least_squares(projector, ridge, past, s.keys, s.residual).dense
    assert relative(actual, published_null_space(s, ridge)) < 1e-5


@pytest.mark.parametrize("rank", [60, 140])  # the basis kept is U's, and the null space's own
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_float32_projection_costs_what_float32_keys_do(rank: int, size: float) -> None:
    """Keys of which old ones' directions hold up to 99.99 %, and subjects edited again.

    Projecting moves the delta by less than ten times what the keys' own last bit moves it by. What
    old keys see of it stays at float32's rounding, however large they are.
    """
    generator = torch.Generator().manual_seed(rank)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    d_in, ridge = 200, 0.1
    basis = torch.linalg.qr(normal(d_in, d_in)).Q
    spectrum = torch.where(torch.arange(d_in) < rank, 1.0, 1e-6).double()
    moment = SecondMoment((basis * spectrum) @ basis.T, 1)
    projector = Projector.fit(moment, Cut(CutRule.rank, rank))
    exact = basis[:, rank:] @ basis[:, rank:].T
    drawn = size * (basis[:, :rank] @ normal(rank, 40)) + exact @ normal(d_in, 40)
    past = torch.cat([drawn[:, :30], drawn[:, :10] + 1e-3 * normal(d_in, 10)], dim=1).float()
    keys, residual = drawn[:, 25:].float(), normal(5, 15).float()
    delta = least_squares(projector, ridge, PastKeys(tuple(past.split(8, 1))), keys, residual)

    def formula(past: Tensor, keys: Tensor) -> Tensor:
        before, inside = exact @ past, exact @ keys
        system = before @ before.T + inside @ inside.T + ridge * torch.eye(d_in).double()
        return residual.double() @ torch.linalg.solve(system, inside).T

    expected = formula(past.double(), keys.double())
    moved = formula(*(k.double() * (1 + 2**-24 * normal(*k.shape).sign()) for k in (past, keys)))
    assert relative(delta.dense, expected) < 10 * relative(moved, expected)
    cache = past @ past.T  # in float32, as published
    published = alphaedit_solve(keys, residual, exact.float(), cache, ridge)
    assert relative(delta.dense, expected) < 0.1 * relative(published, expected)
    assert (delta.dense.double() @ basis[:, :rank]).norm() < 3e-7 * delta.norm


def test_a_singular_system_says_what_to_raise() -> None:
    keys = torch.full((6, 3), 1e10, dtype=torch.float64)
    moment = SecondMoment(torch.eye(6).double(), 1)
    problem = LayerProblem(0, keys, keys, torch.ones(2, 3), torch.ones(2, 6), moment, PastKeys())
    with pytest.raises(NumericalError, match=r"model\.moment_weight"):
        Memit(1e-12).solve(problem)
