from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import AlphaEditError, NumericalError
from alphaedit_plugin.editing.entry import Write
from alphaedit_plugin.editing.weights import EditedWeights
from tests.patches.edits import FORMS, LAYERS, factored, fresh
from tests.tiny import assert_same_weights, weights_of

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(sorted(FORMS))), max_size=6))
def test_adding_and_replaying_give_the_same_bits(
    dtype: torch.dtype, kinds: list[tuple[int, str]]
) -> None:
    lm = fresh(dtype)
    weights = EditedWeights(lm, LAYERS)
    writes = [Write(1, FORMS[form](lm, 1, seed).to(torch.float32)) for seed, form in kinds]
    for write in writes:
        weights.add(write)
    once = weights_of(lm)
    weights.replay([])
    assert_same_weights(lm, weights_of(fresh(dtype)))
    # As they come from a file: another layout, and not aligned.
    weights.replay([Write(w.layer, moved(w.delta)) for w in writes])
    assert_same_weights(lm, once)


def moved(delta: Delta) -> Delta:
    parts = []
    for part in (delta.left, delta.right):
        if part is None:
            parts.append(None)
            continue
        room = torch.zeros(part.numel() + 1)[1:]
        parts.append(room.view_as(part).copy_(part))
    return Delta(parts[0], parts[1])


def test_a_total_is_put_back_as_it_was() -> None:
    lm = fresh()
    weights = EditedWeights(lm, LAYERS)
    for found in (weights.copy_of_total(1), None):
        before = weights_of(lm)
        weights.add(Write(1, factored(lm, 1, 0).to(torch.float32)))
        weights.restore(1, found)
        assert_same_weights(lm, before)
        weights.check()


def test_weights_that_others_changed_are_noticed() -> None:
    lm = fresh()
    weights = EditedWeights(lm, LAYERS)
    lm.weight(3)[0, 0] += 1
    with pytest.raises(AlphaEditError, match=r"h\.3\.mlp\.c_proj\.weight was changed"):
        weights.check()


def test_an_overflow_is_noticed_at_once_and_when_replayed() -> None:
    lm = fresh(torch.float16)
    weights = EditedWeights(lm, LAYERS)
    large = Write(1, Delta(torch.full((32, 128), 1e6)))
    for act in (lambda: weights.add(large), lambda: weights.replay([large])):
        with pytest.raises(NumericalError, match=r"layer 1 overflows torch\.float16"):
            act()
