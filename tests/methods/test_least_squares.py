"""The growing least squares against the published dense forms, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.methods.least_squares import GrowingFactor, PastKeys
from tests.tiny import relative

D_IN, D_OUT = 12, 5


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@dataclass(frozen=True)
class Dense:
    """A matrix for a map of keys."""

    matrix: Tensor

    def image(self, keys: Tensor) -> Tensor:
        return self.matrix.to(keys) @ keys

    def adjoint(self, images: Tensor) -> Tensor:
        return self.matrix.T.to(images) @ images


PLAIN = Dense(torch.eye(D_IN, dtype=torch.float64))


def published(transform: Tensor, past: Tensor, keys: Tensor, residual: Tensor, w: float) -> Tensor:
    """``R KᵀT (KpKpᵀT + KKᵀT + w I)⁻¹``."""
    system = (past @ past.T + keys @ keys.T) @ transform + w * torch.eye(len(keys)).double()
    return residual @ keys.T @ transform @ torch.linalg.inv(system)


@given(
    st.lists(st.integers(1, 3), max_size=4), st.integers(0, 999), st.floats(-1, 3), st.booleans()
)
def test_it_is_the_published_form_however_many_batches(
    sizes: list[int], seed: int, log_weight: float, projects: bool
) -> None:
    if projects:
        used, _ = torch.linalg.qr(normal(D_IN, 4, seed=seed))
        sight = Dense(torch.eye(D_IN).double() - used @ used.T)
    else:
        sight = Dense(normal(D_IN, D_IN, seed=seed))
    transform, weight = sight.matrix.T @ sight.matrix, 10**log_weight
    blocks = tuple(normal(D_IN, size, seed=seed + i) for i, size in enumerate(sizes))
    keys, residual = normal(D_IN, 2, seed=seed + 50), normal(D_OUT, 2, seed=seed + 51)
    past = PastKeys()
    for count in range(len(blocks) + 1):  # one batch after another, as a session grows
        past.blocks = blocks[:count]
        factor = past.factor(sight, weight)
        joined = past.joined(keys)
        expected = published(transform, joined, keys, residual, weight)
        assert relative(factor.delta(keys, residual).dense, expected) < 1e-6
    assert len(past.factors) == 1


def test_undone_batches_are_dropped_and_others_replace_them() -> None:
    blocks = [normal(D_IN, 2, seed=i) for i in range(4)]
    keys, residual = normal(D_IN, 2, seed=50), normal(D_OUT, 2, seed=51)
    grown, anew = GrowingFactor(PLAIN, 1.0), GrowingFactor(PLAIN, 1.0)
    grown.follow(blocks[:3])
    grown.follow([blocks[0], blocks[3]])
    anew.follow([blocks[0], blocks[3]])
    assert relative(grown.delta(keys, residual).dense, anew.delta(keys, residual).dense) < 1e-12
    grown.follow([])
    assert grown.lower is None


def test_another_map_or_weight_has_a_factor_of_its_own() -> None:
    past, sight = PastKeys((normal(D_IN, 2, seed=0),)), Dense(PLAIN.matrix)
    first = past.factor(sight, 1.0)
    assert past.factor(sight, 1.0) is first
    assert past.factor(sight, 2.0) is not first
    assert past.factor(Dense(PLAIN.matrix), 1.0) is not first


def test_keys_that_count_no_longer_are_left_out_and_come_back() -> None:
    batches = [normal(D_IN, size, seed=size) for size in (2, 3, 1)]
    past = PastKeys()
    past.hold(batches, [(), (1,), (0,)])
    first, second = past.blocks
    assert first is batches[0]
    assert torch.equal(second, batches[1][:, [0, 2]])
    past.hold(batches, [(), (1,), ()])
    assert past.blocks[1] is second  # what has grown from it stays
    assert past.blocks[2] is batches[2]
    past.hold(batches, [(), (), ()])
    assert all(mine is theirs for mine, theirs in zip(past.blocks, batches, strict=True))


def test_keys_that_are_not_finite_are_named() -> None:
    with pytest.raises(NumericalError, match="not positive definite"):
        GrowingFactor(PLAIN, 1.0).delta(torch.full((D_IN, 1), torch.nan), torch.ones(2, 1))


def test_keys_that_were_solved_for_join_without_being_worked_on_again() -> None:
    """And as if they had been: the factor and the deltas are the same bits."""
    blocks = [normal(D_IN, 2, seed=i) for i in range(4)]
    residual, calls = normal(D_OUT, 2, seed=51), 0

    class Counting(Dense):
        def image(self, keys: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().image(keys)

    grown = GrowingFactor(Counting(PLAIN.matrix), 1.0)
    anew = GrowingFactor(Dense(PLAIN.matrix), 1.0)
    for count, block in enumerate(blocks):
        grown.follow(blocks[:count])
        anew.follow([earlier.clone() for earlier in blocks[:count]])
        ours, theirs = grown.delta(block, residual), anew.delta(block, residual)
        assert torch.equal(ours.dense, theirs.dense)
    assert calls == len(blocks)


def test_a_solved_block_that_joins_behind_others_is_worked_on_anew() -> None:
    """As after an undo: what it adds to one system is not what it adds to another."""
    first, second, last = (normal(D_IN, 2, seed=i) for i in range(3))
    residual = normal(D_OUT, 2, seed=51)
    for other in ([], [second], [second, first]):
        grown, anew = GrowingFactor(PLAIN, 1.0), GrowingFactor(PLAIN, 1.0)
        grown.follow([first])
        grown.delta(last, residual)
        grown.follow([*other, last])
        anew.follow([*other, last])
        assert torch.equal(grown.delta(first, residual).dense, anew.delta(first, residual).dense)


def test_the_error_stays_small_over_hundreds_of_batches() -> None:
    """Keys are float32, the system float64: 150 batches against one system, solved."""
    blocks = [normal(200, 1, seed=i).float() for i in range(150)]
    keys, residual = normal(200, 2, seed=500).float(), normal(D_OUT, 2, seed=501).float()
    factor = GrowingFactor(Dense(torch.eye(200)), 0.1)
    for count in range(len(blocks) + 1):
        factor.follow(blocks[:count])
    past = torch.cat(blocks, dim=1).double()
    exact = published(torch.eye(200).double(), past, keys.double(), residual.double(), 0.1)
    assert relative(factor.delta(keys, residual).dense, exact) < 1e-7
