"""Leakage on held-out text, against the raw keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.leakage import leakage_on, origins, rounding_note, seen_on
from alphaedit_plugin.nullspace.projector import Projector, fit_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.nullspace.test_collect import keys_of
from tests.tiny import random_sequences


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_it_is_that_of_the_keys_themselves(
    lm: EditableModel, moments: dict[int, SecondMoment], share: float
) -> None:
    d_in = len(moments[2].total)
    projector = Projector.fit(moments[2], Cut(CutRule.rank, int(share * d_in)))
    held_out = random_sequences(len(lm.tokenizer), count=7, length=9)
    found = leakage_on(projector, collect_second_moments(lm, held_out, [2])[2], lm.weight(2))
    keys = keys_of(lm, 2, held_out).T
    null, weight = projector.apply(keys), lm.weight(2).double()
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


def test_what_text_sees_does_not_depend_on_whose_projector_made_it() -> None:
    """Through the model's own projector nearly nothing; through a stranger's what chance does."""
    d_in, d_out, rank = 60, 8, 20
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d_in, d_in, dtype=torch.float64)).Q
    spectrum = torch.where(torch.arange(d_in) < rank, 1.0, 1e-6).double()
    moment = SecondMoment((basis * spectrum) @ basis.T, 1)
    raw = Delta(torch.randn(d_out, 3).double(), torch.randn(d_in, 3).double())
    own = Projector.fit(moment, Cut(CutRule.rank, rank))
    other = torch.linalg.qr(torch.randn(d_in, d_in, dtype=torch.float64)).Q[:, :rank]
    strange = Projector(other.float(), torch.empty(0), Cut())
    for projector, low, high in ((own, 0.0, 0.01), (strange, 0.5, 1.5)):
        delta = projector.project(raw)
        assert projector.leakage(delta) < 1e-6  # each by its own U
        assert low < seen_on(delta, moment) < high
        keys = (basis * spectrum.sqrt()) @ torch.randn(d_in, 200_000, dtype=torch.float64)
        size = (delta.dense @ keys).square().sum() / keys.square().sum()
        assert seen_on(delta, moment) == pytest.approx(
            (d_in * size).sqrt().item() / delta.norm, rel=0.05
        )
        assert seen_on(Delta(delta.dense), moment) == pytest.approx(seen_on(delta, moment))
    assert seen_on(Delta(torch.zeros(d_out, d_in)), moment) == 0


def test_few_tokens_are_warned_of_and_named(caplog: pytest.LogCaptureFixture) -> None:
    keys = torch.randn(6, 40, dtype=torch.float64)
    for count, warned in ((6, True), (40, False), (1, False)):
        caplog.clear()
        moment = SecondMoment(keys.T @ keys, count)
        found = fit_projectors({3: moment}, Cut(CutRule.rank, 4))
        assert ("layer 3: fitted on 6 tokens, of which 40 dimensions" in caplog.text) == warned
        assert found[3].origin == f"fitted on {count} tokens"
    assert "fitted on 6 tokens, t.txt" in origins({1: replace(found[3], tokens=6, source="t.txt")})
