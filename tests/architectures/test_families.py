"""Every family: edited by all bases, searched as published, undone, and found by its structure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.editing.engine import finalize
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rect import Rect
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.activations import Part, Site
from alphaedit_plugin.models.discover import discover
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.families import LAYOUTS
from alphaedit_plugin.models.prefix_cache import can_resume
from alphaedit_plugin.models.tokens import ContextTemplates
from alphaedit_plugin.models.writing import Manuscript, write_texts
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from tests.architectures.zoo import SETTINGS, WHOLE
from tests.published import published_loop
from tests.tiny import (
    CONTEXTS,
    REQUESTS,
    assert_same_weights,
    edit,
    hook_count,
    random_sequences,
    relative,
    targets_of,
    weights_of,
)

SEARCH = TargetSettings(steps=3, lr=0.1)
QUICK = TargetSettings(steps=2, lr=0.1)
TWO = REQUESTS[1:3]
BARE = ContextTemplates.of([])
BASES: dict[str, BaseMethod] = {
    "rome": Rome(),
    "memit": Memit(moment_weight=10.0),
    "prune": Prune(moment_weight=10.0),
    "rect": Rect(moment_weight=10.0),
}


def test_every_family_is_here() -> None:
    assert {name.partition("/")[0] for name in SETTINGS} == set(LAYOUTS)


def test_its_structure_tells_what_the_registry_says(animal: EditableModel) -> None:
    assert discover(animal.model, {}) == animal.layout


@pytest.mark.parametrize("part", [Part.BLOCK, Part.VALUE], ids=lambda part: part.name)
def test_the_search_is_the_published_loop(animal: EditableModel, part: Part) -> None:
    """Whose passes are whole, one text at a time: no cache, no padding, no skipped block."""
    site = Site(1, part)
    assert can_resume(animal) == (animal.model.config.model_type not in WHOLE)
    found = targets_of(animal, TWO, CONTEXTS, site, FactToken.subject_last, SEARCH)
    column = int(part is Part.BLOCK)
    value, loss = published_loop(animal, TWO[column], site, SEARCH)
    assert relative(found.values[:, column], value) < 1e-4
    assert found.loss[column].item() == pytest.approx(loss, rel=1e-3)


def test_it_writes_the_same_text_with_its_cache_and_in_whole_passes(animal: EditableModel) -> None:
    manuscript = replace(Manuscript.of(animal, 16), ends=())
    texts = write_texts(animal, manuscript, range(3))
    assert write_texts(replace(animal, findings={"prefix cache": False}), manuscript, range(3)) == (
        texts
    )


def test_every_base_edits_it_and_is_undone(animal: EditableModel) -> None:
    layers = (0, 1)
    moments = collect_second_moments(animal, random_sequences(len(animal.tokenizer), 20), layers)
    half = Cut(CutRule.rank, animal.weight(0).shape[1] // 2)
    projectors = {layer: Projector.fit(moment, half) for layer, moment in moments.items()}
    pristine = weights_of(animal)
    for base in BASES.values():
        for method in (base, AlphaEdit(base, projectors)):
            chosen = layers[-1:] if base.one_by_one else layers
            recipe = Recipe(method, chosen, BARE, moments, targets=QUICK)
            session = EditSession(animal, chosen)
            edit(session, recipe, TWO[:1])
            finalize(session, recipe)
            for layer in chosen:
                change = session.change(layer)
                assert change.is_finite
                assert change.norm > 1e-3
                if method is not base:
                    assert projectors[layer].leakage(change) < 1e-4
            session.reset()
            assert_same_weights(animal, pristine)
    assert hook_count(animal.model) == 0
