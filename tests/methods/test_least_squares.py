"""The growing least squares against the published dense forms, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.methods.least_squares import least_squares
from alphaedit_plugin.methods.past_keys import PastKeys
from tests.tiny import relative

D_IN, D_OUT = 12, 5


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@dataclass(frozen=True)
class Dense:
    """A matrix for a map of keys."""

    matrix: Tensor

    @property
    def dimension(self) -> int:
        return len(self.matrix)

    @property
    def reduced(self) -> Dense:
        return self

    def image(self, keys: Tensor) -> Tensor:
        return self.matrix.to(keys) @ keys

    def adjoint(self, images: Tensor) -> Tensor:
        return self.matrix.T.to(images) @ images


def joined(blocks: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.empty(D_IN, 0, dtype=torch.float64), *blocks], dim=1)


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
        key_map = Dense(torch.eye(D_IN).double() - used @ used.T)
    else:
        key_map = Dense(normal(D_IN, D_IN, seed=seed))
    transform, weight = key_map.matrix.T @ key_map.matrix, 10**log_weight
    blocks = tuple(normal(D_IN, size, seed=seed + i) for i, size in enumerate(sizes))
    keys, residual = normal(D_IN, 2, seed=seed + 50), normal(D_OUT, 2, seed=seed + 51)
    past = PastKeys()
    for count in range(len(blocks) + 1):  # one batch after another, as a session grows
        past.blocks = blocks[:count]
        expected = published(transform, joined(past.blocks), keys, residual, weight)
        actual = least_squares(key_map, weight, past, keys, residual)
        assert relative(actual.dense, expected) < 1e-6


def test_undone_batches_are_dropped_and_others_replace_them() -> None:
    """To the bit: a leading block's factor is the factor's leading block."""
    blocks = [normal(D_IN, 2, seed=i) for i in range(4)]
    keys, residual = normal(D_IN, 2, seed=50), normal(D_OUT, 2, seed=51)
    past = PastKeys()
    for numbers in ([0, 1, 2], [0, 3], [3, 0], [], [0, 1]):
        past.blocks = tuple(blocks[number] for number in numbers)
        fresh = PastKeys(tuple(block.clone() for block in past.blocks))
        ours, theirs = (least_squares(PLAIN, 1.0, p, keys, residual) for p in (past, fresh))
        assert torch.equal(ours.dense, theirs.dense)


def test_another_map_or_weight_has_a_system_of_its_own() -> None:
    past, key_map = PastKeys((normal(D_IN, 2, seed=0),)), Dense(PLAIN.matrix)
    first = past.system(key_map, 1.0)
    assert past.system(key_map, 1.0) is first
    assert past.system(key_map, 2.0) is not first
    assert past.system(Dense(PLAIN.matrix), 1.0) is not first


def test_keys_that_count_no_longer_are_left_out_and_come_back() -> None:
    batches = [normal(D_IN, size, seed=size) for size in (2, 3, 1)]
    past = PastKeys()
    past.hold(batches, [(), (1,), (0,)])
    first, second = past.blocks
    assert first is batches[0]
    assert torch.equal(second, batches[1][:, [0, 2]])
    past.hold(batches, [(), (), ()])
    assert all(mine is theirs for mine, theirs in zip(past.blocks, batches, strict=True))


@pytest.mark.parametrize("count", [3, 2 * D_IN])  # fewer keys than dimensions, and more
@pytest.mark.parametrize("value", [1e10, torch.nan])
def test_a_system_that_rounding_leaves_singular_says_what_to_raise(
    count: int, value: float
) -> None:
    """Equal keys, and a ridge far below the rounding of their products."""
    keys = torch.full((D_IN, count), value, dtype=torch.float64)
    with pytest.raises(NumericalError, match=r"raise projector\.l2, or model\.moment_weight"):
        least_squares(PLAIN, 1e-12, PastKeys(), keys, torch.ones(2, count))


def test_keys_that_were_solved_for_join_without_being_worked_on_again() -> None:
    blocks = [normal(D_IN, 2, seed=i) for i in range(4)]
    calls = 0

    class Counting(Dense):
        def image(self, keys: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().image(keys)

    past, key_map = PastKeys(), Counting(PLAIN.matrix)
    for count, block in enumerate(blocks):
        past.hold(blocks[:count], [(1,) if n == 1 else () for n in range(count)])
        least_squares(key_map, 1.0, past, block, normal(D_OUT, 2, seed=51))
    # When the second block loses a key, it and the one after it are mapped again, once.
    assert calls == len(blocks) + 1


def test_the_error_stays_small_over_hundreds_of_batches() -> None:
    """Keys are float32, the system float64: 150 batches against one system, solved."""
    blocks = [normal(200, 1, seed=i).float() for i in range(150)]
    keys, residual = normal(200, 2, seed=500).float(), normal(D_OUT, 2, seed=501).float()
    past, key_map = PastKeys(), Dense(torch.eye(200))
    for count in range(len(blocks) + 1):
        past.blocks = tuple(blocks[:count])
        actual = least_squares(key_map, 0.1, past, keys, residual)
    together = torch.cat(blocks, dim=1).double()
    exact = published(torch.eye(200).double(), together, keys.double(), residual.double(), 0.1)
    assert relative(actual.dense, exact) < 1e-7
