"""Target values found again: the same numbers, searched once for all that can share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from alphaedit_plugin.common.cache import Cache
from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.editing import target_cache as stored
from alphaedit_plugin.editing.encoding import EncodedRequest, encode
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.target_cache import StoredTargets
from alphaedit_plugin.editing.targets import Targets, optimise_targets
from alphaedit_plugin.experiments.results import read_cell
from alphaedit_plugin.experiments.sweep import run_compare
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.models.activations import Part, Site
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import CONTEXTS, REQUESTS, SEARCH, targets_of

SITE = Site(1, Part.BLOCK)
RECIPE = Recipe(Memit(), (1,), CONTEXTS)


class Counting:
    """The real search, and the requests that it was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[Request, ...]] = []

    def __call__(self, lm: EditableModel, batch: Sequence[EncodedRequest], *rest: Any) -> Targets:
        self.asked.append(tuple(encoded.request for encoded in batch))
        return optimise_targets(lm, batch, *rest)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(stored, "optimise_targets", counting)
    return counting


def search(found: StoredTargets, lm: EditableModel, requests: Sequence[Request]) -> Targets:
    return found(lm, encode(lm, RECIPE, requests), SITE, SEARCH)


def same(one: Targets, other: Targets) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_what_was_found_is_found_again(
    gpt2: EditableModel, tmp_path: Path, searches: Counting
) -> None:
    plain = targets_of(gpt2, REQUESTS, CONTEXTS, SITE, FactToken.subject_last, SEARCH)
    for _ in range(2):  # each of a process of its own
        assert same(search(StoredTargets.of(Cache(tmp_path), gpt2, [1]), gpt2, REQUESTS), plain)
    assert len(searches.asked) == 1


def test_another_state_or_search_is_searched_anew(
    gpt2: EditableModel, tmp_path: Path, searches: Counting
) -> None:
    found = StoredTargets.of(Cache(tmp_path), gpt2, [1])
    search(found, gpt2, REQUESTS)
    search(found, gpt2, REQUESTS[:2])
    encoded = encode(gpt2, RECIPE, REQUESTS)
    found(gpt2, encoded, SITE, replace(SEARCH, lr=0.1))
    found(gpt2, encoded, Site(2, Part.BLOCK), SEARCH)
    gpt2.weight(1)[0, 0] += 1e-3
    search(found, gpt2, REQUESTS)
    gpt2.weight(3)[0, 0] += 1e-3  # which is not edited: it is another model
    search(StoredTargets.of(Cache(tmp_path), gpt2, [1]), gpt2, REQUESTS)
    assert len(searches.asked) == 6


def test_a_method_of_single_requests_keeps_those_of_the_unedited_model_only(
    gpt2: EditableModel, tmp_path: Path, searches: Counting
) -> None:
    found = StoredTargets.of(Cache(tmp_path), gpt2, [1], pristine_only=True)
    search(found, gpt2, REQUESTS)
    gpt2.weight(1)[0, 0] += 1e-3
    for _ in range(2):
        search(found, gpt2, REQUESTS)
    assert len(searches.asked) == 3
    assert len(list((tmp_path / "targets").glob("*.safetensors"))) == 1


def test_a_damaged_file_is_searched_anew(
    gpt2: EditableModel, tmp_path: Path, searches: Counting
) -> None:
    found = StoredTargets.of(Cache(tmp_path), gpt2, [1])
    first = search(found, gpt2, REQUESTS)
    (path,) = (tmp_path / "targets").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    assert same(search(found, gpt2, REQUESTS), first)
    assert len(searches.asked) == 2


def test_cells_share_them_and_find_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searches: Counting
) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    words = [
        "model.target.steps=5", "model.moments.tokens=3000", "compare.retention=10",
        "compare.every=0", "batch_size=4", "compare.edits=8", "compare.jobs=1",
        "compare.bases=[memit,prune]",
    ]  # fmt: skip
    shared, apart = (
        [
            read_cell(folder)
            for folder in run_compare(
                [*words, f"compare.share_targets={flag}", f"compare.out={tmp_path / flag}"],
                Console(quiet=True),
            )
        ]
        for flag in ("true", "false")
    )
    # The first batch once for all four cells; the second once per side, as PRUNE writes as MEMIT.
    assert len(searches.asked) == 3
    for one, other in zip(shared, apart, strict=True):
        assert (one.points, one.layers) == (other.points, other.layers)
