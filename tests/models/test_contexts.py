from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.models.contexts import STARTS, as_template, generate_contexts
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates


def test_the_same_seed_gives_the_same_texts(lm: EditableModel) -> None:
    first = generate_contexts(lm, [(5, 5)], seed=1)
    torch.rand(3)
    assert generate_contexts(lm, [(5, 5)], seed=1) == first
    assert generate_contexts(lm, [(5, 5)], seed=2) != first


def test_the_global_random_state_is_untouched(gpt2: EditableModel) -> None:
    ours, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    python = random.getstate()
    generate_contexts(gpt2, [(5, 5)], seed=1)
    assert torch.equal(torch.get_rng_state(), ours)
    assert np.random.get_state()[1].tolist() == numbers
    assert random.getstate() == python


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 10, 12])
def test_there_are_as_many_as_asked(gpt2: EditableModel, count: int) -> None:
    assert len(generate_contexts(gpt2, [(4, count)], seed=0)) == count


def test_every_start_is_used(gpt2: EditableModel) -> None:
    texts = generate_contexts(gpt2, [(4, 10), (7, 5)], seed=0)
    assert len(texts) == 15
    for start in STARTS:
        assert sum(text.startswith(start) for text in texts) >= 3


def test_no_text_is_asked_for(gpt2: EditableModel) -> None:
    assert generate_contexts(gpt2, [], seed=0) == []
    assert generate_contexts(gpt2, [(5, 0)], seed=0) == []


def test_they_are_context_templates(lm: EditableModel) -> None:
    texts = generate_contexts(lm, [(6, 10)], seed=3)
    assert ContextTemplates.of(texts).flat[0] == "{}"
    assert all(text.endswith(". {}") for text in texts)


def test_the_model_is_left_as_it_was(gpt2: EditableModel) -> None:
    gpt2.model.train()
    generate_contexts(gpt2, [(5, 5)], seed=0)
    assert gpt2.model.training
    assert all(p.requires_grad for p in gpt2.model.parameters())


def test_braces_and_line_breaks_do_not_reach_the_slot() -> None:
    assert as_template("a {b}\n{} c\t") == "a b c. {}"


def test_a_damaged_model_says_so(lm: EditableModel) -> None:
    lm.weight(1)[:] = torch.nan
    with pytest.raises(NumericalError, match="the model predicts nan"):
        generate_contexts(lm, [(5, 5)], seed=0)
