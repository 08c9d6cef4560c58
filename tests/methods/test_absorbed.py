"""More earlier keys than dimensions: absorbed, against formulas as published, in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alphaedit_plugin.methods.dual import KeyMap
from alphaedit_plugin.methods.least_squares import least_squares
from alphaedit_plugin.methods.past_keys import PastKeys
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from benchmarks.measure import held_bytes
from tests.tiny import relative

D_IN, D_OUT = 16, 3


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def projector(rank: int, d_in: int = D_IN) -> Projector:
    """Of directions that float32 holds as they are, so that a formula has them, too."""
    used = torch.linalg.qr(normal(d_in, d_in, seed=rank)).Q[:, :rank].float().double()
    moment = used @ torch.diag(torch.linspace(9, 1, rank).double()) @ used.T
    return Projector.fit(SecondMoment(moment, 1), Cut(CutRule.rank, rank))


def formula(key_map: KeyMap, past: Tensor, keys: Tensor, residual: Tensor, w: float) -> Tensor:
    """``R KᵀP (KpKpᵀP + KKᵀP + L2·I)⁻¹``; ``R Kᵀ (λC + KpKpᵀ + KKᵀ)⁻¹``."""
    outer = past @ past.T + keys @ keys.T
    if isinstance(key_map, SecondMoment):
        return residual @ keys.T @ torch.linalg.inv(w * key_map.mean + outer)
    assert isinstance(key_map, Projector)
    span = torch.linalg.qr(key_map.basis.double()).Q
    p = span @ span.T if key_map.spans_null else torch.eye(len(span)).double() - span @ span.T
    return residual @ keys.T @ p @ torch.linalg.inv(outer @ p + w * torch.eye(len(p)).double())


root = normal(D_IN, D_IN, seed=7)
MAPS = {
    "seq": SecondMoment(root @ root.T / D_IN + 0.1 * torch.eye(D_IN).double(), 1),
    "alphaedit, U": projector(5),
    "alphaedit, null basis": projector(11),
}


@pytest.mark.parametrize("name", MAPS)
@given(
    steps=st.lists(
        st.one_of(
            st.integers(1, 7),  # a batch of so many
            st.tuples(st.just("undo"), st.integers(0, 99)),  # of any batch
            st.tuples(st.just("lose"), st.integers(0, 99)),  # one key, by a correction
        ),
        min_size=3,
        max_size=20,
    ),
    seed=st.integers(0, 999),
    log_weight=st.floats(-1, 3),
)
def test_it_is_the_published_form_however_long_the_history(
    name: str, steps: list[int | tuple[str, int]], seed: int, log_weight: float
) -> None:
    key_map, weight, past = MAPS[name], 10**log_weight, PastKeys()
    batches: list[Tensor] = []
    lost: list[set[int]] = []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            batches.append(normal(D_IN, step, seed=1000 * seed + number))
            lost.append(set())
        elif batches and step[0] == "undo":
            del batches[step[1] % len(batches)], lost[step[1] % len(lost)]
        elif batches:
            chosen = step[1] % len(batches)
            lost[chosen].add(step[1] % batches[chosen].shape[1])
        past.hold(batches, lost)
        keys = normal(D_IN, 1 + number % 3, seed=1000 * seed + number + 500)
        residual = normal(D_OUT, keys.shape[1], seed=number)
        columns = [
            keys[:, [n]]
            for keys, out in zip(batches, lost, strict=True)
            for n in range(keys.shape[1])
            if n not in out
        ]
        together = torch.cat([keys[:, :0], *columns], dim=1)
        expected = formula(key_map, together, keys, residual, weight)
        assert relative(least_squares(key_map, weight, past, keys, residual).dense, expected) < 1e-6


@pytest.mark.parametrize("name", MAPS)
def test_bits_do_not_depend_on_how_a_history_came_about(name: str) -> None:
    """One that grew batch by batch and had some undone, and one read from a file at once."""
    key_map, grown = MAPS[name], PastKeys()
    sizes = [3, 1, 8, 2, 2, 1, 5, 1, 1, 1, 7, 2]
    blocks = [normal(D_IN, size, seed=n).float() for n, size in enumerate(sizes)]
    keys, residual = normal(D_IN, 2, seed=50).float(), normal(D_OUT, 2, seed=51).float()
    orders = [list(range(count)) for count in range(len(blocks) + 1)]
    orders += [orders[-1][:-2], orders[-1][:4] + orders[-1][5:], orders[-1], [], orders[6]]
    for order in orders:
        grown.hold([blocks[n] for n in order], [()] * len(order))
        fresh = PastKeys(tuple(blocks[n].clone() for n in order))
        ours, theirs = (least_squares(key_map, 1.0, p, keys, residual) for p in (grown, fresh))
        assert torch.equal(ours.dense, theirs.dense)


@pytest.mark.parametrize("rank", [30, 70])
def test_float32_keys_meet_no_step_where_they_are_absorbed(rank: int) -> None:
    """Beside the system of all keys in float64, and unseen by old keys as before."""
    d_in, past = 100, PastKeys()
    key_map = projector(rank, d_in)
    blocks = [normal(d_in, 1, seed=n).float() for n in range(160)]
    errors, leaks = [], []
    for count in range(len(blocks)):
        past.hold(blocks[:count], [()] * count)
        residual = normal(D_OUT, 1, seed=count).float()
        delta = least_squares(key_map, 1.0, past, blocks[count], residual)
        known = torch.cat(blocks[: count + 1], dim=1).double()
        exact = formula(key_map, known[:, :-1], known[:, -1:], residual.double(), 1.0)
        errors.append(relative(delta.dense, exact))
        leaks.append(key_map.leakage(delta))
    system = past.system(key_map, 1.0)
    assert system.absorbed is not None
    assert len(system.blocks) > key_map.null_dimension
    assert max(errors) < 1e-6
    assert max(leaks) < 5e-7


def test_memory_does_not_grow_with_what_is_absorbed() -> None:
    key_map, past = MAPS["alphaedit, U"], PastKeys()
    blocks = [normal(D_IN, 1, seed=n).float() for n in range(120)]
    sizes = []
    for count in (40, 80, 120):
        past.hold(blocks[:count], [()] * count)
        least_squares(key_map, 1.0, past, blocks[0], normal(D_OUT, 1, seed=1).float())
        system = past.system(key_map, 1.0)
        sizes.append(held_bytes(system.absorbed, system.dual.images, system.dual.factor))
        assert all(mine is block for mine, block in zip(system.blocks, blocks, strict=False))
    q = key_map.null_dimension
    pending = 1 + q // 8  # and the batch that was solved for
    assert max(sizes) <= 8 * q * (q + 1) + 8 * pending * (q + pending) + held_bytes(key_map)


def test_one_more_edit_factors_no_matrix_of_all_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    factored = torch.linalg.cholesky_ex

    def noting(system: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(system))
        return factored(system)  # type: ignore[no-any-return]

    d_in, past = 64, PastKeys()
    key_map = projector(20, d_in)
    blocks = [normal(d_in, 1, seed=n) for n in range(200)]
    monkeypatch.setattr(torch.linalg, "cholesky_ex", noting)
    for count in range(100, 200):
        past.hold(blocks[:count], [()] * count)
        least_squares(key_map, 1.0, past, blocks[count], normal(D_OUT, 1, seed=1))
    whole = [n for n, size in enumerate(sizes) if size == 44]
    assert set(sizes) <= {1, 2, 3, 4, 5, 44}
    assert len(whole) == 1 + 100 // 5  # every 44/8 edits
    assert all(b - a >= 5 for a, b in pairwise(whole))


@pytest.mark.parametrize("count", [1, 3])
def test_a_projector_that_leaves_nothing_gives_a_delta_of_zero(count: int) -> None:
    everything = Projector(torch.empty(D_IN, 0), torch.ones(D_IN), Cut(CutRule.rank, D_IN), True)
    past = PastKeys(tuple(normal(D_IN, 2, seed=n) for n in range(count)))
    delta = least_squares(everything, 1.0, past, normal(D_IN, 2, seed=9), normal(D_OUT, 2, seed=8))
    assert delta.norm == 0
