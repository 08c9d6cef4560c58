from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import AlphaEditError
from alphaedit_plugin.editing.engine import finalize
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.undo import plan
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rect import Rect
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from alphaedit_plugin.patches.sessions import open_session
from tests import tiny
from tests.patches.edits import edit, fresh
from tests.tiny import CONTEXTS, REQUESTS, SEARCH, assert_same_weights, relative, weights_of

LAYERS = [1, 2]
Moments = dict[int, SecondMoment]
METHODS: dict[str, BaseMethod] = {
    "memit": Memit(20.0), "rome": Rome(), "prune": Prune(20.0), "rect": Rect(20.0),
}  # fmt: skip


def edited(
    lm: EditableModel, method: BaseMethod, moments: Moments, batches: Sequence[Sequence[Any]]
) -> EditSession:
    session = EditSession(lm, LAYERS)
    recipe = Recipe(method, tuple(LAYERS), CONTEXTS, moments, targets=SEARCH)
    for batch in batches:
        tiny.edit(session, recipe, batch)
    finalize(session, recipe)
    return session


@pytest.fixture
def all_projectors(gpt2_moments: Moments) -> dict[int, Projector]:
    return {layer: Projector.fit(m, Cut(CutRule.rank, 64)) for layer, m in gpt2_moments.items()}


@pytest.mark.parametrize("name", ["memit", "rome"])
@pytest.mark.parametrize("null_space", [False, True])
def test_one_edit_of_a_batch_is_taken_back_alone(
    gpt2: EditableModel,
    gpt2_moments: Moments,
    all_projectors: dict[int, Projector],
    name: str,
    null_space: bool,
) -> None:
    """What the others wrote stays, and what it wrote itself is gone."""
    method = METHODS[name]
    if null_space:
        method = AlphaEdit(method, all_projectors)
    session = edited(gpt2, method, gpt2_moments, [REQUESTS[:3]])
    entry, before = session.journal[0], session.accumulated(2).clone()
    undone = session.undo(session.ids[1])
    assert (undone.ids, undone.entries) == ((entry.ids[1],), ())
    assert undone.requests == (REQUESTS[1],)
    # Least squares solve for all at once; ROME edits the third request after the second.
    assert undone.later == (2 if name == "memit" else 1)
    assert f"{undone.later} of them in the same batch" in undone.notes[0]
    assert session.requests == [REQUESTS[0], REQUESTS[2]]
    assert session.ids == [entry.ids[0], entry.ids[2]]
    last = [write.delta for write in entry.writes if write.layer == 2]
    part = last[0].columns([1]) if name == "memit" else last[1]
    assert relative(before - session.accumulated(2), part.dense) < 1e-5
    session.undo(entry.name)
    assert session.journal == []


def test_edits_that_share_a_delta_go_together(gpt2: EditableModel, gpt2_moments: Moments) -> None:
    before = weights_of(gpt2)
    session = edited(gpt2, METHODS["rect"], gpt2_moments, [REQUESTS[:2]])
    ids = tuple(session.ids)
    undone = session.undo(ids[0])
    assert undone.ids == ids
    assert "shares its delta" in undone.notes[0]
    assert_same_weights(gpt2, before)


def test_the_end_of_a_run_goes_with_what_it_reworked(
    gpt2: EditableModel, gpt2_moments: Moments
) -> None:
    batches = [REQUESTS[:2], REQUESTS[2:]]
    session = edited(gpt2, METHODS["prune"], gpt2_moments, batches)
    assert session.ended
    names = [entry.name for entry in session.journal]
    undone = session.undo(names[0])
    assert undone.entries == (names[0], names[2])
    assert (undone.ended, undone.later, len(undone.notes)) == (True, 2, 2)
    assert [entry.name for entry in session.journal] == [names[1]]
    assert not session.ended


def test_undoing_in_the_middle_says_what_that_means(caplog: pytest.LogCaptureFixture) -> None:
    session = EditSession(fresh(), LAYERS)
    edit(session, 0, 1, 2)
    with caplog.at_level(logging.WARNING):
        undone = session.undo(session.journal[1].name)
    note = "2 edits stay that were computed with"
    assert undone.later == 2
    assert note in undone.notes[0]
    assert note in caplog.text
    twin = EditSession(fresh(), LAYERS)
    edit(twin, 0, 2)
    assert_same_weights(session.lm, weights_of(twin.lm))
    caplog.clear()
    assert session.undo(1).notes == ()
    assert caplog.text == ""


@pytest.mark.parametrize("what", ["e0", "", "b", 3, -1, 1.5, None])
def test_what_is_not_there_cannot_be_taken_back(what: Any) -> None:
    session = EditSession(fresh(), LAYERS)
    edit(session, 0, 1)
    before = weights_of(session.lm)
    with pytest.raises(AlphaEditError, match=r"unknown edit|cannot undo"):
        session.undo(what)
    assert_same_weights(session.lm, before)
    assert len(session.journal) == 2


def test_an_empty_journal_says_so() -> None:
    with pytest.raises(AlphaEditError, match="the journal is empty"):
        plan([], "e1")


def test_a_misspelt_edit_is_helped() -> None:
    entry = Entry((REQUESTS[0],), (), ids=("e1234567890",))
    with pytest.raises(AlphaEditError, match="did you mean 'e1234567890'"):
        plan([entry], "e1234567809")


def test_later_batches_do_not_change_when_an_earlier_one_goes(tmp_path: Path) -> None:
    """Column for column what was written stays written, also after a journal is opened again."""
    session = open_session(fresh(torch.bfloat16), LAYERS, tmp_path / "j")
    edit(session, 0, 1)
    session.undo(session.ids[0])
    session.undo(session.ids[-1])
    again = open_session(fresh(torch.bfloat16), LAYERS, tmp_path / "j")
    assert again.ids == session.ids
    assert len(again.ids) == 2
    assert_same_weights(again.lm, weights_of(session.lm))
    assert [k.shape[1] for e in again.journal for k in e.past_keys.values()] == [1] * 4
