"""Leakage on held-out text, against the raw keys."""

from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.projector import Cut, CutRule, Projector
from alphaedit_plugin.projector.leakage import leakage_on, rounding_note
from alphaedit_plugin.statistics import SecondMoment, collect_second_moments
from tests.statistics.test_collect import keys_of
from tests.tiny import random_sequences


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_it_is_that_of_the_keys_themselves(
    view: EditableModel, moments: dict[int, SecondMoment], share: float
) -> None:
    d_in = len(moments[2].total)
    projector = Projector.fit(moments[2], Cut(CutRule.rank, int(share * d_in)))
    held_out = random_sequences(len(view.tokenizer), count=7, length=9)
    found = leakage_on(projector, collect_second_moments(view, held_out, [2])[2], view.weight(2))
    keys = keys_of(view, 2, held_out).T
    null, weight = projector.apply(keys), view.weight(2).double()
    assert found.tokens == 63
    assert found.keys == pytest.approx((null.norm() / keys.norm()).item() ** 2, rel=1e-4)
    outputs = ((weight @ null).norm() / (weight @ keys).norm()).item() ** 2
    assert found.outputs == pytest.approx(outputs, rel=1e-4)


def test_the_ends(gpt2: EditableModel, gpt2_moments: dict[int, SecondMoment]) -> None:
    for rank, expected in ((0, 1.0), (128, 0.0)):
        projector = Projector.fit(gpt2_moments[1], Cut(CutRule.rank, rank))
        found = leakage_on(projector, gpt2_moments[1], gpt2.weight(1))
        assert (found.keys, found.outputs) == pytest.approx((expected, expected), abs=1e-6)


def test_a_layer_that_is_silent(gpt2_moments: dict[int, SecondMoment]) -> None:
    """No energy, none of it in the null space."""
    projector = Projector.fit(gpt2_moments[1], Cut(CutRule.rank, 5))
    silent = SecondMoment(torch.zeros(128, 128).double(), 3)
    assert leakage_on(projector, silent, torch.zeros(4, 128)).keys == 0.0
    assert leakage_on(projector, gpt2_moments[1], torch.zeros(4, 128)).outputs == 0.0


@pytest.mark.parametrize(
    ("shares", "dtype", "said"),
    [
        ([(2e-3, 4e-8), (1e-3, 9e-8)], "bfloat16", "bfloat16 weights; before it, at most 9.0e-08"),
        ([(2e-6, 4e-8)], "float32", "float32 weights; before it, at most 4.0e-08"),
        ([(8e-8, 4e-8)], "float32", None),  # nobody would wonder
        ([(1e-2, 9.9e-3)], "float32", None),  # no rounding does that
        ([], "bfloat16", None),
    ],
)
def test_rounding_is_named_where_it_hides_what_the_projector_leaves(
    shares: list[tuple[float, float]], dtype: str, said: str | None
) -> None:
    note = rounding_note(shares, dtype)
    assert note is None if said is None else said in str(note)
