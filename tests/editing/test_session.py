from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import AlphaEditError, ModelError, NumericalError
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import REQUESTS, assert_same_weights, build_model, relative, weights_of

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def some_delta(lm: EditableModel, layer: int = 1, seed: int = 0, size: float = 0.1) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    d_out, d_in = lm.weight(layer).shape
    left = torch.randn(d_out, 3, generator=generator, dtype=torch.float64)
    right = torch.randn(d_in, 3, generator=generator, dtype=torch.float64)
    return Delta(size * left, right)


def write(session: EditSession, *seeds: int, size: float = 0.1) -> None:
    """One journal entry per seed, on every layer of the session."""
    for seed in seeds:
        with session.batch():
            for layer in session.layers:
                session.write(layer, some_delta(session.lm, layer, seed + 100 * layer, size))
            session.commit(REQUESTS[:1])


def test_a_write_adds_the_delta_to_the_weight(lm: EditableModel) -> None:
    before = lm.weight(1).clone()
    session = EditSession(lm, [1])
    write(session, 0)
    delta = some_delta(lm, 1, 100).dense
    assert relative(lm.weight(1) - before, delta) < 1e-5
    assert relative(session.accumulated(1), delta) < 1e-6
    assert torch.equal(session.pristine(1), before)


def test_only_the_layers_written_to_change(lm: EditableModel) -> None:
    before = weights_of(lm)
    session = EditSession(lm, [0, 2])
    write(session, 0)
    changed = {name for name, p in lm.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {lm.weight_name(0), lm.weight_name(2)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_reset_is_bit_identical(lm: EditableModel, dtype: torch.dtype) -> None:
    lm.model.to(dtype)
    lm.weight(1)[0, 0] = -0.0  # which adding zero would turn into 0.0
    before = weights_of(lm)
    session = EditSession(lm, [1, 3])
    write(session, *range(5))
    session.reset()
    assert_same_weights(lm, before)
    assert session.journal == session.requests == []
    assert not session.accumulated(1).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_undo_is_bit_identical(lm: EditableModel, dtype: torch.dtype, count: int) -> None:
    lm.model.to(dtype)
    session = EditSession(lm, [1, 3])
    write(session, *range(4 - count))
    before, journal = weights_of(lm), list(session.journal)
    write(session, *range(10, 10 + count))
    session.undo(count)
    assert_same_weights(lm, before)
    assert session.journal == journal


def test_undoing_and_writing_again_gives_the_same_weights(gpt2: EditableModel) -> None:
    session = EditSession(gpt2, [0, 1])
    write(session, 1, 2, 3)
    once = weights_of(gpt2)
    session.undo(2)
    write(session, 2, 3)
    assert_same_weights(gpt2, once)


@pytest.mark.parametrize("count", [3, -1, None, 1.5])
def test_undoing_more_than_there_is_is_refused(gpt2: EditableModel, count: Any) -> None:
    session = EditSession(gpt2, [1])
    write(session, 0, 1)
    before = weights_of(gpt2)
    with pytest.raises(
        AlphaEditError, match=f"cannot undo the latest {count} batches: the journal has 2"
    ):
        session.undo(count)
    assert_same_weights(gpt2, before)


def test_half_precision_gathers_no_rounding_over_many_writes(gpt2: EditableModel) -> None:
    """Deltas far below one rounding step of the weight still add up."""
    gpt2.model.to(torch.bfloat16)
    start = gpt2.weight(1).float().clone()
    session = EditSession(gpt2, [1])
    step = Delta(torch.full_like(start, 1e-5))
    for _ in range(300):
        with session.batch():
            session.write(1, step)
            session.commit()
    assert torch.equal(gpt2.weight(1), (start + session.accumulated(1)).bfloat16())
    assert torch.allclose(session.accumulated(1), torch.full_like(start, 3e-3), rtol=1e-3)
    naive = start.bfloat16()
    for _ in range(300):
        naive += 1e-5
    exact = start + 3e-3
    assert (gpt2.weight(1).float() - exact).norm() < 0.5 * (naive.float() - exact).norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_error_takes_the_open_batch_back(lm: EditableModel, dtype: torch.dtype) -> None:
    lm.model.to(dtype)
    session = EditSession(lm, [1, 2])
    write(session, 0)
    before, total = weights_of(lm), session.accumulated(1).clone()
    with pytest.raises(KeyboardInterrupt), session.batch():  # noqa: PT012
        session.write(1, some_delta(lm, 1, 5))
        session.write(1, some_delta(lm, 1, 6))
        session.write(2, some_delta(lm, 2, 7))
        raise KeyboardInterrupt
    assert_same_weights(lm, before)
    assert torch.equal(session.accumulated(1), total)
    assert len(session.journal) == 1
    write(session, 1)  # and the session goes on
    assert len(session.journal) == 2


def test_a_batch_that_is_not_committed_is_taken_back(gpt2: EditableModel) -> None:
    before = weights_of(gpt2)
    session = EditSession(gpt2, [1])
    with session.batch():
        session.write(1, some_delta(gpt2))
    assert_same_weights(gpt2, before)
    assert session.journal == []


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e300])
def test_a_delta_that_is_not_finite_in_float32_is_refused(gpt2: EditableModel, bad: float) -> None:
    before = weights_of(gpt2)
    session = EditSession(gpt2, [0, 1])
    delta = some_delta(gpt2)
    delta.left[0, 0] = bad
    with pytest.raises(NumericalError, match="layer 1"), session.batch():  # noqa: PT012
        session.write(0, some_delta(gpt2, 0))
        session.write(1, delta)
    assert_same_weights(gpt2, before)


def test_a_weight_that_overflows_its_dtype_is_refused(gpt2: EditableModel) -> None:
    gpt2.model.to(torch.float16)
    before = weights_of(gpt2)
    session = EditSession(gpt2, [1])
    with pytest.raises(NumericalError, match=r"layer 1 overflows torch\.float16"), session.batch():
        session.write(1, some_delta(gpt2, size=1e6))
    assert_same_weights(gpt2, before)


def test_writing_and_committing_need_an_open_batch(gpt2: EditableModel) -> None:
    session = EditSession(gpt2, [1])
    with pytest.raises(AlphaEditError, match="open"):
        session.write(1, some_delta(gpt2))
    with pytest.raises(AlphaEditError, match="open"):
        session.commit()


def test_batches_do_not_nest(gpt2: EditableModel) -> None:
    session = EditSession(gpt2, [1])
    before = weights_of(gpt2)
    with pytest.raises(AlphaEditError, match="already"), session.batch():  # noqa: PT012
        session.write(1, some_delta(gpt2))
        with session.batch():
            pass
    assert_same_weights(gpt2, before)


def test_two_sessions_on_two_models_never_touch_each_other() -> None:
    models = [build_model("gpt2", 30, seed) for seed in (0, 1)]
    first, second = (EditSession(EditableModel.wrap(m, None), [1]) for m in models)
    untouched = weights_of(second.lm)
    write(first, 1, 2)
    with first.batch():
        first.commit(REQUESTS, {1: torch.ones(128, 2)})
    assert_same_weights(second.lm, untouched)
    assert second.journal == []
    assert second.past(1).count == 0
    edited = weights_of(first.lm)
    write(second, 3)
    second.reset()
    assert_same_weights(first.lm, edited)
    assert_same_weights(second.lm, untouched)


def test_past_keys_are_those_of_all_entries_in_order(gpt2: EditableModel) -> None:
    session = EditSession(gpt2, [1])
    d_in = gpt2.weight(1).shape[1]
    assert session.past(1).count == 0
    like = torch.zeros(d_in, 1)
    for value in (1.0, 2.0):
        with session.batch():
            session.commit(REQUESTS[:2], {1: torch.full((d_in, 2), value)})
    with session.batch():
        session.commit()  # an end of a run has none
    assert session.past(1).joined(like)[0].tolist() == [1, 1, 2, 2]
    assert session.requests == REQUESTS[:2] * 2
    session.undo(2)
    assert session.past(1).joined(like)[0].tolist() == [1, 1]


def test_layers_are_checked_at_once(gpt2: EditableModel) -> None:
    with pytest.raises(ModelError, match="out of range"):
        EditSession(gpt2, [1, 9])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", [lambda s: write(s, 9), EditSession.undo], ids=["write", "undo"])
def test_what_others_wrote_is_not_overwritten_unasked(
    lm: EditableModel, dtype: torch.dtype, act: Callable[[EditSession], None]
) -> None:
    lm.model.to(dtype)
    pristine = weights_of(lm)
    session = EditSession(lm, [1, 2])
    write(session, 0)
    lm.weight(2)[3, 4] += 0.5
    theirs, journal = weights_of(lm), list(session.journal)
    with pytest.raises(AlphaEditError, match=rf"{lm.weight_name(2)} was changed.*reset\(\)"):
        act(session)
    assert_same_weights(lm, theirs)
    assert session.journal == journal
    session.reset()
    assert_same_weights(lm, pristine)
    write(session, 1)


def test_undoing_can_be_forced_over_what_others_wrote(gpt2: EditableModel) -> None:
    session = EditSession(gpt2, [1])
    write(session, 0)
    once = weights_of(gpt2)
    write(session, 1)
    gpt2.weight(1).zero_()
    session.undo(force=True)
    assert_same_weights(gpt2, once)


def test_two_sessions_on_one_model_do_not_overwrite_each_other(gpt2: EditableModel) -> None:
    first, second = EditSession(gpt2, [1]), EditSession(gpt2, [1])
    write(first, 0)
    edited = weights_of(gpt2)
    with pytest.raises(AlphaEditError, match="start a new editor"):
        write(second, 1)
    assert_same_weights(gpt2, edited)
    write(EditSession(gpt2, [1]), 1)  # one that begins now builds on what is there
    with pytest.raises(AlphaEditError, match="start a new editor"):
        first.undo()


def test_moving_the_model_is_no_change(gpt2: EditableModel) -> None:
    session = EditSession(gpt2, [1])
    write(session, 0)
    for parameter in gpt2.model.parameters():
        parameter.data = parameter.data.clone()
    write(session, 1)
    assert len(session.journal) == 2


def test_a_session_goes_in_and_out_of_inference_mode(gpt2: EditableModel) -> None:
    before = weights_of(gpt2)
    with torch.inference_mode():
        session = EditSession(gpt2, [1])
        session.accumulated(1)
        write(session, 0)
    write(session, 1)
    with torch.inference_mode():
        session.undo()
    write(session, 2)
    session.reset()
    assert_same_weights(gpt2, before)


def test_a_weight_that_is_not_finite_is_refused_at_once(gpt2: EditableModel) -> None:
    gpt2.weight(1)[0, 0] = torch.nan
    EditSession(gpt2, [0])
    with pytest.raises(ModelError, match=r"h\.1\.mlp\.c_proj\.weight is not finite"):
        EditSession(gpt2, [0, 1])
