"""Blocks with a norm or a factor behind the MLP: what it must put out for what is wanted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.editing.post_norm import value_residual
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.models.activations import Part, Site, read
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import hidden_of, hooked, with_hidden
from alphaedit_plugin.models.tokens import ContextTemplates, Sentence, locate
from alphaedit_plugin.nullspace.collect import collect_second_moments
from tests.architectures.zoo import build
from tests.tiny import REQUESTS, edit, hook_count, random_sequences, relative, targets_of

LAYER = 1
SITE = Site(LAYER, Part.BLOCK)
BARE = ContextTemplates.of([])


def wrap(name: str, tokenizer: Any) -> EditableModel:
    return EditableModel.wrap(build(name, len(tokenizer)), tokenizer)


def sentences(lm: EditableModel) -> list[Sentence]:
    return [locate(lm.tokenizer, r.prompt, r.subject, FactToken.subject_last) for r in REQUESTS]


def block_after(lm: EditableModel, change: Tensor) -> Tensor:
    """The blocks' outputs, sentence by sentence, with ``change (d, n)`` behind the MLP."""
    outputs = []
    for sentence, column in zip(sentences(lm), change.T, strict=True):

        def add(_: Any, args: Any, out: Any, column: Tensor = column) -> Any:
            return with_hidden(out, hidden_of(out) + column)  # on every token: one counts

        with hooked(lambda: lm.down_proj(LAYER).register_forward_hook(add)):
            outputs.append(read(lm, [SITE], [sentence])[SITE])
    return torch.cat(outputs, dim=1)


def test_nothing_to_do_where_the_block_adds_the_mlp(tokenizer: Any) -> None:
    lm, wanted = wrap("llama", tokenizer), torch.randn(32, 4)
    assert value_residual(lm, LAYER, sentences(lm), wanted) is wanted


@pytest.mark.parametrize("budget", [1, 10_000])
def test_a_factor_is_divided_out(tokenizer: Any, budget: int) -> None:
    lm, wanted = wrap("granite", tokenizer), torch.randn(32, 4)
    wanted *= torch.tensor([1e-2, 1.0, 1.0, 1e2])  # none may drown another
    found = value_residual(lm, LAYER, sentences(lm), wanted, budget)
    for column in range(4):
        assert relative(found[:, column] * 0.3, wanted[:, column]) < 1e-3


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "glm4", "exaone4", "olmo2", "opt/350m"])
def test_a_norm_is_taken_into_account(tokenizer: Any, name: str) -> None:
    lm = wrap(name, tokenizer)
    before = block_after(lm, torch.zeros(32, 4))
    size = read(lm, [Site(LAYER, Part.VALUE)], sentences(lm)).popitem()[1].norm(dim=0)
    change = torch.randn(32, 4)
    reachable = block_after(lm, 0.5 * size * change / change.norm(dim=0)) - before
    found = value_residual(lm, LAYER, sentences(lm), reachable)
    assert relative(block_after(lm, found) - before, reachable) < 0.03
    far = 3 * reachable
    found = value_residual(lm, LAYER, sentences(lm), far)
    left, as_it_is = ((block_after(lm, d) - before - far).norm(dim=0) for d in (found, far))
    assert (left < as_it_is).all()
    assert torch.isfinite(found).all()


def test_memit_reaches_its_targets_behind_a_factor(tokenizer: Any) -> None:
    lm, search = wrap("granite", tokenizer), TargetSettings(steps=5, lr=0.1)
    moments = collect_second_moments(lm, random_sequences(len(tokenizer)), [0, LAYER])
    recipe = Recipe(Memit(moment_weight=1e-3), (0, LAYER), BARE, moments, targets=search)
    target = targets_of(lm, REQUESTS, BARE, SITE, FactToken.subject_last, search).values
    missing = target - block_after(lm, torch.zeros(32, 4))
    with torch.no_grad():  # as a caller may
        edit(EditSession(lm, recipe.layers), recipe, REQUESTS)
    left = target - block_after(lm, torch.zeros(32, 4))
    assert left.norm() < 0.05 * missing.norm()
    assert hook_count(lm.model) == 0
