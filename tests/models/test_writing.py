"""Texts that a model writes: they follow its distribution, and depend on nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError, NumericalError
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.writing import Manuscript, sample, write_texts
from tests.tiny import BEGIN, END, build_model, tokenizer_of


def logits_after(lm: EditableModel, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return lm.model(torch.tensor([ids])).logits[0, -1].double()


def test_every_token_is_the_one_that_the_draw_falls_on(lm: EditableModel) -> None:
    """As written by hand: one text at a time, whole passes, a sum over the vocabulary."""
    manuscript = Manuscript.of(lm, 20, seed=3)
    texts = write_texts(lm, manuscript, range(6))
    assert len({tuple(text) for text in texts}) == 6
    for number, text in enumerate(texts):
        draws, ids = np.random.default_rng([3, number]).random(20), [manuscript.start]
        for draw in draws[1:]:
            shares, token = logits_after(lm, ids).softmax(0).tolist(), 0
            while sum(shares[: token + 1]) <= draw:
                token += 1
            if token in manuscript.ends:
                break
            ids.append(token)
        assert text == ids[1:]


def test_their_tokens_are_as_frequent_as_the_model_says(gpt2: EditableModel) -> None:
    """First and second tokens against the model's probabilities: no top-k, no temperature."""
    count = 4000
    manuscript = replace(Manuscript.of(gpt2, 3), ends=())
    texts, start = write_texts(gpt2, manuscript, range(count)), manuscript.start
    first = logits_after(gpt2, [start]).softmax(0)
    second = sum(
        share * logits_after(gpt2, [start, token]).softmax(0) for token, share in enumerate(first)
    )
    for place, expected in ((0, first), (1, second)):
        seen = Counter(text[place] for text in texts)
        counts = torch.tensor([seen[token] for token in range(len(expected))])
        deviations = (counts - count * expected) / (count * expected).sqrt()
        assert deviations.square().mean() == pytest.approx(1, abs=0.35)  # chi-squared per token


def test_sampling_takes_the_interval_of_the_draw() -> None:
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25]).log().expand(6, 4)
    draws = torch.tensor([0.0, 0.24, 0.26, 0.74, 0.76, 1 - 2**-53], dtype=torch.float64)
    assert sample(logits, draws).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_text_is_the_same_in_any_batch_and_order(lm: EditableModel) -> None:
    manuscript = Manuscript.of(lm, 24, seed=1)
    together = write_texts(lm, manuscript, range(8))
    torch.rand(3)
    assert write_texts(lm, manuscript, range(8)) == together
    assert write_texts(lm, manuscript, [7, 2]) == [together[7], together[2]]
    assert write_texts(lm, manuscript, range(8), budget=30) == together
    assert write_texts(lm, replace(manuscript, seed=2), range(8)) != together


def test_without_a_cache_the_texts_are_the_same(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    manuscript = Manuscript.of(gpt2, 12)
    cached = write_texts(gpt2, manuscript, range(5))
    monkeypatch.setitem(gpt2.findings, "prefix cache", False)
    assert write_texts(gpt2, manuscript, range(5)) == cached


def test_texts_stop_before_an_end_and_at_their_length(gpt2: EditableModel) -> None:
    open_ended = replace(Manuscript.of(gpt2, 200), ends=())
    assert open_ended.length == 64  # all that the model can read
    whole = write_texts(gpt2, open_ended, range(10))
    assert {len(text) for text in whole} == {63}
    end, told = whole[0][5], list[int]()
    texts = write_texts(gpt2, replace(open_ended, ends=(end,)), range(10), told.append)
    assert texts == [text[: (*text, end).index(end)] if end in text else text for text in whole]
    assert sum(told) == sum(map(len, texts))


@pytest.mark.parametrize(
    ("kind", "start", "token", "kept"),
    [
        ("byte_level", None, BEGIN, False),
        ("byte_level", END, END, False),
        ("bos", None, BEGIN, True),
        ("slow", None, END, False),
    ],
)
def test_they_begin_as_the_model_reads_any_text(
    kind: str, start: str | None, token: str, kept: bool
) -> None:
    tokenizer = tokenizer_of(kind)
    lm = EditableModel.wrap(build_model("llama", len(tokenizer)), tokenizer)
    manuscript = Manuscript.of(lm, 8, start=start)
    assert manuscript.start == tokenizer.convert_tokens_to_ids(token)
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id, manuscript.start} - {None}
    assert set(manuscript.ends) == ends
    texts = write_texts(lm, replace(manuscript, ends=()), range(3))
    assert all((text[0] == manuscript.start) == kept for text in texts)
    assert {len(text) for text in texts} == {8 if kept else 7}


def test_a_start_that_is_not_there(gpt2: EditableModel) -> None:
    with pytest.raises(ConfigError, match="'<nothing>', no token of this tokenizer's"):
        Manuscript.of(gpt2, 8, start="<nothing>")
    bare = replace(gpt2, tokenizer=SimpleNamespace(bos_token_id=None, eos_token_id=None))
    with pytest.raises(ConfigError, match=r"neither bos nor eos: set model\.moments\.written"):
        Manuscript.of(bare, 8)


def test_a_damaged_model_says_so(gpt2: EditableModel) -> None:
    gpt2.weight(1)[:] = torch.nan
    with pytest.raises(NumericalError, match="the model predicts nan"):
        write_texts(gpt2, Manuscript.of(gpt2, 8), range(2))
