"""Greedy texts: as transformers writes them, whatever the cache, and up to their natural stop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.models import decoding
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.decoding import Continuation, continue_greedily, say
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.prefix_cache import can_resume
from tests.tiny import CONTEXT, END

PROMPTS = [
    "The mother tongue of Ada Marsh is",
    "Boris Lund plays the",
    "It",
    "The capital of Norland is",
    "Clara Weiss works as a violin player in Norland, because people",
]


def generated(lm: EditableModel, prompt: str, length: int) -> list[int]:
    """By transformers' ``generate``."""
    ids = torch.tensor([tokenise(lm.tokenizer, prompt)])
    with torch.no_grad():
        out = lm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            pad_token_id=0,
        )
    return out[0, ids.shape[1] :].tolist()


def text_of(lm: EditableModel, ids: list[int]) -> str:
    return lm.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize("cached", [True, False])
def test_equals_generate(
    lm: EditableModel, budget: int, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_resume(lm)
    monkeypatch.setitem(lm.findings, "prefix cache", cached)
    lengths = [1, 12, 3, 7, 4]
    expected = [text_of(lm, generated(lm, p, n)) for p, n in zip(PROMPTS, lengths, strict=True)]
    assert continue_greedily(lm, PROMPTS, lengths, budget) == expected


def test_the_cache_reads_each_token_once(gpt2: EditableModel) -> None:
    assert can_resume(gpt2)
    widths: list[int] = []
    handle = gpt2.model.transformer.wte.register_forward_hook(
        lambda _, args, out: widths.append(out.shape[1])
    )
    continue_greedily(gpt2, PROMPTS, [6] * len(PROMPTS))
    handle.remove()
    assert widths[1:] == [1] * 5


def test_prompts_without_room(gpt2: EditableModel) -> None:
    with pytest.raises(RequestError, match="context"):
        continue_greedily(gpt2, ["The"], [CONTEXT + 1])
    assert continue_greedily(gpt2, ["The"], [CONTEXT])  # the last token is not read
    assert continue_greedily(gpt2, [], []) == []
    with pytest.raises(RequestError, match="context"):
        say(gpt2, ["The cats " * CONTEXT], 5)
    with pytest.raises(RequestError, match="no token"):
        say(gpt2, [""], 5)


def test_greedy_stops_at_the_end_of_the_text(gpt2: EditableModel) -> None:
    end = gpt2.tokenizer.convert_tokens_to_ids(END)
    with torch.no_grad():
        gpt2.model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(gpt2.model.lm_head.weight))
    # All logits are equal now, and the first of equals is token 0, the end.
    assert end == 0
    assert continue_greedily(gpt2, ["The"], [4]) == [""]
    assert say(gpt2, ["The"], 4) == [Continuation("", ended=True)]


# ---------------------------------------------------------------------------------------------
# Natural stops


def scripted(
    lm: EditableModel, monkeypatch: pytest.MonkeyPatch, script: dict[str, str]
) -> list[list[int]]:
    """Let the model say a given text after each prompt; returns the rows of every step."""
    told = {tuple(tokenise(lm.tokenizer, prompt)): text for prompt, text in script.items()}
    steps: list[list[int]] = []

    def write_on(lm: Any, rows: Any, choose: Any, goes_on: Any) -> None:
        texts = [told[tuple(row)] for row in rows]
        tokens = [lm.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        going = [n for n in range(len(rows)) if goes_on(n)]
        while going:
            steps.append(going)
            for number in going:
                rows[number].append(tokens[number].pop(0))
            going = [n for n in going if goes_on(n)]

    monkeypatch.setattr(decoding, "write_on", write_on)
    return steps


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (" Rome. Norland is a", "Rome."),
        (" Rome! Is it? No", "Rome!"),
        (" Rome\nNorland is", "Rome"),
        ("\nRome", ""),
        (" 3.5 cats. The", "3.5 cats."),
        (" J. Doe said. So", "J. Doe said."),
        (' "Rome." He', '"Rome."'),
        (f" Rome{END} is", "Rome"),
    ],
)
def test_stops(gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch, said: str, text: str) -> None:
    scripted(gpt2, monkeypatch, {"The": said + " and so on" * 20})
    assert say(gpt2, ["The"], 30) == [Continuation(text, ended=True)]


def test_a_limit_that_is_hit_is_reported(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = {"The": " cats and the cats and the cats", "It": " is. And", "I": " is."}
    steps = scripted(gpt2, monkeypatch, {k: v + " so" * 20 for k, v in script.items()})
    count = len(gpt2.tokenizer(" is.")["input_ids"])
    first, second, _ = say(gpt2, ["The", "It", "I"], 5)
    assert not first.ended
    assert second == Continuation("is.", ended=True)
    assert len(steps) == 5
    assert say(gpt2, ["I"], count) == [Continuation("is.", ended=True)]


def test_a_row_is_the_same_in_any_batch(lm: EditableModel) -> None:
    together = say(lm, PROMPTS, 15)
    assert [say(lm, [prompt], 15)[0] for prompt in PROMPTS] == together
    assert say(lm, PROMPTS, 15, budget=20) == together
