from __future__ import annotations

from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.generation import (
    FIRST_WORDS,
    as_template,
    draw_texts,
    generate_contexts,
)
from alphaedit_plugin.models.tokens import ContextTemplates


def test_the_same_seed_gives_the_same_texts(lm: EditableModel) -> None:
    first = generate_contexts(lm, [(5, 5)], seed=1)
    torch.rand(3)
    assert generate_contexts(lm, [(5, 5)], seed=1) == first
    assert generate_contexts(lm, [(5, 5)], seed=2) != first


@pytest.mark.parametrize("count", [0, 1, 5, 7])
def test_there_are_as_many_as_asked(gpt2: EditableModel, count: int) -> None:
    assert len(generate_contexts(gpt2, [(4, count)], seed=0)) == count


def test_every_first_word_is_used(gpt2: EditableModel) -> None:
    texts = generate_contexts(gpt2, [(4, 10), (7, 5)], seed=0)
    assert len(texts) == 15
    for word in FIRST_WORDS:
        assert sum(text.startswith(word) for text in texts) >= 3


def test_they_are_context_templates(lm: EditableModel) -> None:
    texts = generate_contexts(lm, [(6, 10)], seed=3)
    assert ContextTemplates.of(texts).flat[0] == "{}"
    assert all(text.endswith(". {}") for text in texts)


def test_braces_and_line_breaks_do_not_reach_the_slot() -> None:
    assert as_template("a {b}\n{} c\t") == "a b c. {}"


def test_a_damaged_model_says_so(lm: EditableModel) -> None:
    lm.weight(1)[:] = torch.nan
    with pytest.raises(NumericalError, match="the model predicts nan"):
        generate_contexts(lm, [(5, 5)], seed=0)


def test_out_of_memory_samples_fewer_texts_at_once(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, sizes = gpt2.model.generate, []

    def small(ids: torch.Tensor, **settings: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError
        return generate(ids, **settings)

    monkeypatch.setattr(gpt2.model, "generate", small)
    texts = draw_texts(gpt2, ["Rome is", "The", "Paris is", "I"], length=8)
    assert sizes == [4, 2, 2]
    assert [text[0] for text in texts] == ["R", "T", "P", "I"]
