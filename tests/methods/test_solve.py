"""Closed forms against the formulas as published, dense and in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from alphaedit_plugin.methods.prune import restrain
from alphaedit_plugin.methods.rect import keep_largest_change
from alphaedit_plugin.methods.rome import rome_delta
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import relative


@dataclass
class System:
    """Random ``K``, ``Kp``, ``R``, ``W``, ``C`` and ``P`` in float64."""

    keys: Tensor
    past: Tensor
    residual: Tensor
    weight: Tensor
    moment: Tensor
    projector: Tensor


@st.composite
def systems(draw: st.DrawFn, max_keys: int = 30) -> System:
    """Shapes, seeds, scales and condition numbers of every kind."""
    d_in, d_out = draw(st.integers(2, 24)), draw(st.integers(1, 16))
    n, m = draw(st.integers(1, max_keys)), draw(st.integers(0, max_keys))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.floats(0, 4))  # decades between the eigenvalues of C
    scale = 10.0 ** draw(st.integers(-2, 2))
    rank = draw(st.integers(0, d_in - 1))
    basis, _ = np.linalg.qr(rng.normal(size=(d_in, d_in)))
    eigenvalues = scale * np.logspace(0, -spread, d_in)
    moment = (basis * eigenvalues) @ basis.T
    projector = np.eye(d_in) - basis[:, :rank] @ basis[:, :rank].T
    normal = (rng.normal(size=s) for s in ((d_in, n), (d_in, m), (d_out, n), (d_out, d_in)))
    return System(*map(torch.from_numpy, (*normal, (moment + moment.T) / 2, projector)))


def whiten(s: System, x: Tensor) -> Tensor:
    return SecondMoment(s.moment, 1).whiten(x)


def published_null_space(s: System, ridge: float) -> Tensor:
    """``R KᵀP (KpKpᵀP + KKᵀP + L2·I)⁻¹``: the form as published, whose system is not symmetric."""
    identity = torch.eye(len(s.keys), dtype=torch.float64)
    system = (s.past @ s.past.T + s.keys @ s.keys.T) @ s.projector + ridge * identity
    return s.residual @ s.keys.T @ s.projector @ torch.linalg.inv(system)


@given(systems(max_keys=1))
def test_rome_is_the_published_rank_one_delta(s: System) -> None:
    key, residual = s.keys[:, :1], s.residual[:, :1]
    actual = rome_delta(whiten(s, key), key, residual)
    u = torch.linalg.inv(s.moment) @ key
    u = u / u.norm()
    assert relative(actual.dense, residual @ u.T / (u.T @ key)) < 1e-6
    assert actual.left.shape[1] == 1


@given(systems(max_keys=4))
def test_rome_makes_the_subject_key_give_the_target_exactly(s: System) -> None:
    averaged = s.keys.mean(dim=1, keepdim=True)
    subject_key = averaged + 0.05 * s.keys[:, :1]
    wanted = s.residual[:, :1]
    delta = rome_delta(whiten(s, averaged), subject_key, wanted - s.weight @ subject_key)
    now = (s.weight + delta.dense) @ subject_key
    # u may be nearly orthogonal to k₀, and then Δ is large: judge by the size of what is summed.
    size = delta.norm * subject_key.norm().item() + wanted.norm().item()
    assert (now - wanted).norm().item() < 1e-10 * size


@given(systems(), st.floats(0.5, 100))
def test_rect_keeps_exactly_the_share_that_changes_most(s: System, percent: float) -> None:
    assume(round(s.weight.numel() * percent / 100) > 0)
    delta = torch.randn(s.weight.shape, dtype=torch.float64)
    kept = keep_largest_change(delta, s.weight, percent)
    mask = kept != 0
    assert mask.sum() == round(delta.numel() * percent / 100)
    assert torch.equal(kept[mask], delta[mask])
    change = (delta / s.weight).abs()
    if mask.any() and not mask.all():
        assert change[mask].min() >= change[~mask].max()


def test_rect_counts_a_zero_weight_as_changed_infinitely() -> None:
    delta, weight = torch.tensor([[1e-9, 5.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    assert keep_largest_change(delta, weight, 100 / 3).tolist() == [[delta[0, 0].item(), 0.0, 0.0]]


def test_rect_breaks_ties_without_keeping_more() -> None:
    kept = keep_largest_change(torch.ones(10, 10), torch.ones(10, 10), 40)
    assert kept.count_nonzero() == 40


@st.composite
def deltas(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A weight, and a delta some of whose singular values are above the weight's largest."""
    shape = (draw(st.integers(1, 16)), draw(st.integers(1, 16)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = 10.0 ** draw(st.floats(-2, 3))
    weight = rng.normal(size=shape) * 10.0 ** draw(st.floats(-1, 2))
    return torch.from_numpy(weight), torch.from_numpy(rng.normal(size=shape) * size)


@given(deltas(), st.floats(1.05, 3))
def test_prune_never_grows_a_singular_value(pair: tuple[Tensor, Tensor], alpha: float) -> None:
    weight, delta = pair
    before = torch.linalg.svdvals(delta)
    after = torch.linalg.svdvals(restrain(delta, weight, alpha).dense)
    assert (after <= before * (1 + 1e-9) + 1e-12).all()


@given(deltas(), st.floats(1.05, 3))
def test_prune_is_the_published_curve_where_it_does_not_grow(
    pair: tuple[Tensor, Tensor], alpha: float
) -> None:
    weight, delta = pair
    u, values, vt = np.linalg.svd(delta.numpy(), full_matrices=False)
    limit = np.linalg.svd(weight.numpy(), compute_uv=False)[0]
    if 1 / (limit * math.log(alpha)) > 1:
        limit = 1.01 / math.log(alpha)  # make the slope at σ* less than 1
        weight = weight * (limit / torch.linalg.matrix_norm(weight, ord=2))
    curve = np.log(values) / math.log(alpha) - math.log(limit) / math.log(alpha) + limit
    published = (u * np.where(values > limit, curve, values)) @ vt
    actual = restrain(delta, weight, alpha).dense
    assert relative(actual, torch.from_numpy(published)) < 1e-8


def test_prune_leaves_small_deltas_alone() -> None:
    weight = 10 * torch.eye(4, dtype=torch.float64)
    delta = torch.randn(4, 4, dtype=torch.float64).clamp(-1, 1)
    assert relative(restrain(delta, weight, 1.2).dense, delta) < 1e-12
