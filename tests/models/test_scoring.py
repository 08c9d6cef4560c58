"""Scores equal those of a plain forward pass, for any batch, length and padding."""

from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import Answer, score
from tests.tiny import CONTEXT, target_ids

PAIRS = [
    ("The mother tongue of Ada Marsh is", "Spanish"),
    ("Boris Lund plays the", "violin player in Norland"),
    ("It", "is"),
    ("The capital of Norland is", " Rome"),
    ("Clara Weiss works as a violin player in Norland, because people", "said so."),
    ("The capital of Norland is", "French"),
]


def plain(lm: EditableModel, prompt: str, answer: str) -> Answer:
    """The same by one unpadded forward pass and the definition of a log-probability."""
    before = tokenise(lm.tokenizer, prompt)
    labels = target_ids(lm.tokenizer, prompt, answer)
    with torch.no_grad():
        logits = lm.model(torch.tensor([before + labels])).logits[0].double()
    rows = logits[len(before) - 1 : -1].log_softmax(1)
    log_prob = sum(row[token].item() for row, token in zip(rows, labels, strict=True))
    return Answer(tuple(labels), tuple(rows.argmax(1).tolist()), log_prob)


def test_equals_a_plain_forward_pass(lm: EditableModel) -> None:
    found = score(lm, PAIRS)
    assert max(len(answer.labels) for answer in found) > 2
    for (prompt, answer), one in zip(PAIRS, found, strict=True):
        expected = plain(lm, prompt, answer)
        assert one.labels == expected.labels
        assert one.predicted == expected.predicted
        assert one.log_prob == pytest.approx(expected.log_prob, abs=1e-4)
        assert one.mean_log_prob == pytest.approx(expected.log_prob / len(one.labels), abs=1e-4)


@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_batch_size_does_not_matter(lm: EditableModel, budget: int) -> None:
    alone = [score(lm, [pair])[0] for pair in PAIRS]
    together = score(lm, PAIRS, budget)
    for one, other in zip(alone, together, strict=True):
        assert (one.labels, one.predicted) == (other.labels, other.predicted)
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)


def test_several_answers_to_one_prompt_share_a_pass(gpt2: EditableModel) -> None:
    passes = []
    handle = gpt2.model.register_forward_hook(lambda _, args, out: passes.append(out.logits.shape))
    found = score(gpt2, [("The capital of", " is"), ("The capital of", " as")] * 3)
    handle.remove()
    assert len(passes) == 1
    assert found[0] == found[2] == found[4]
    assert found[0] != found[1]


def test_accuracy_is_the_share_of_tokens() -> None:
    assert Answer((1, 2, 3, 4), (1, 2, 0, 4), -1.0).accuracy == 0.75


def test_nothing_to_score(gpt2: EditableModel) -> None:
    assert score(gpt2, []) == []


def test_prompts_that_cannot_be_scored(gpt2: EditableModel) -> None:
    with pytest.raises(RequestError, match="has no token"):
        score(gpt2, [("", "x")])
    with pytest.raises(RequestError, match=f"the model's context is {CONTEXT}"):
        score(gpt2, [("The cats " * CONTEXT, "x")])
