"""The pocket model keeps its promises: it knows its world, and is a fair testbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alphaedit_plugin import NullSpaceEditor
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.data.pocket_world.assets import ASSETS
from alphaedit_plugin.data.pocket_world.model import load_pocket
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.metrics.evaluation import evaluate
from alphaedit_plugin.models.scoring import score
from examples.train_pocket.train import main
from examples.train_pocket.world import World, corpus_sentences, generate_world, write_world


@pytest.fixture(scope="module")
def world() -> World:
    return generate_world(0)


@pytest.fixture(scope="module")
def editor() -> NullSpaceEditor:
    return NullSpaceEditor.from_pretrained("pocket", null_space=False, overrides=["base=memit"])


def test_the_assets_stay_small() -> None:
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) < 8e6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_same_however_it_is_loaded(dtype: str) -> None:
    model, _ = load_pocket(getattr(torch, dtype))
    other = load_model(load_config([f"model.dtype={dtype}", "model.device=cpu"]).model).model
    assert model.config._name_or_path == other.config._name_or_path == "pocket"
    for (name, weight), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        assert weight.dtype is getattr(torch, dtype)
        assert torch.equal(weight, expected), name


def test_it_knows_its_world_in_every_phrasing(editor: NullSpaceEditor, world: World) -> None:
    for phrasing in range(3):
        pairs = [(fact.prompts[phrasing], fact.answer) for fact in world.facts]
        known = [answer.accuracy == 1 for answer in score(editor.lm, pairs)]
        assert sum(known) >= 0.99 * len(known)


def test_a_batch_of_twenty_edits_takes_and_spares_the_rest(editor: NullSpaceEditor) -> None:
    data = load_data(load_config(["compare.retention=1000"], ComparisonConfig))
    batch = data.requests[:20]
    assert len({request.subject for request in batch}) == 20
    editor.apply(batch)
    found = evaluate(editor.lm, batch, data.retention)
    editor.session.reset()
    assert found.efficacy.success >= 0.95
    assert found.retained is not None
    assert found.retained >= 0.80


def test_corrections_take_with_the_null_space_as_without() -> None:
    """Earlier keys are kept in place, but not those of the answers that are corrected."""
    editor = NullSpaceEditor.from_pretrained("pocket", overrides=["base=memit"])
    jobs = [r for r in load_data(load_config([])).requests if r.prompt == "{} works as a"][:40]
    others = [r.target_new for r in jobs]
    wrong = [
        replace(r, target_new=next(o for o in others[n:] + others if o != r.target_new))
        for n, r in enumerate(jobs)
    ]
    for batch in (*batches(wrong), *batches(jobs)):
        editor.apply(batch)
    found = evaluate(editor.lm, jobs, {})
    assert found.efficacy.success >= 0.9


def batches(requests: Sequence[Request]) -> list[Sequence[Request]]:
    return [requests[start : start + 10] for start in range(0, len(requests), 10)]


def test_the_shipped_files_are_of_the_generated_world(world: World, tmp_path: Path) -> None:
    write_world(world, tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (ASSETS / path.name).read_bytes()


def test_the_corpus_names_neither_the_edited_nor_the_unseen(world: World) -> None:
    text = "\n".join(corpus_sentences(world))
    hidden = [person.name for person in world.people if person.group != "seen"]
    assert not [name for name in hidden if name in text]
    assert any(person.name in text for person in world.people if person.group == "seen")


def test_training_runs_and_says_when_it_is_not_done(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="knows"):
        main(["--out", str(tmp_path), "--steps", "1"])
