"""The boundary between a prompt and its answer is that of running text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.models.boundary import continuations, encode, separator_of, stem, tokenise
from tests.tiny import fast_tokenizer, target_ids

TOKENIZER = fast_tokenizer()
PROMPT = "The capital of Norland is"


def test_an_answer_follows_its_prompt_with_one_space(any_tokenizer: Any) -> None:
    plain = target_ids(any_tokenizer, PROMPT, "Rome")
    assert target_ids(any_tokenizer, PROMPT, " Rome") == plain
    assert tokenise(any_tokenizer, PROMPT) + plain == tokenise(any_tokenizer, PROMPT + " Rome")
    assert any_tokenizer.decode(plain).strip() == "Rome"


@pytest.mark.parametrize("blank", [" ", "  ", "\t", "\u00a0", " \u3000"])
def test_blanks_after_a_prompt_or_an_answer_change_nothing(any_tokenizer: Any, blank: str) -> None:
    plain = continuations(any_tokenizer, [(PROMPT, "Rome")])
    assert continuations(any_tokenizer, [(PROMPT + blank, "Rome")]) == plain
    assert continuations(any_tokenizer, [(PROMPT + blank, " Rome")]) == plain
    assert continuations(any_tokenizer, [(PROMPT, "Rome" + blank)]) == plain


def test_a_line_break_before_an_answer_is_the_prompts() -> None:
    ((before, labels),) = continuations(TOKENIZER, [(PROMPT + ":\n", "Rome")])
    assert before == tokenise(TOKENIZER, PROMPT + ":\n")
    assert before + labels == tokenise(TOKENIZER, PROMPT + ":\nRome")


@given(
    st.text(st.sampled_from("Ada Marsh cats,.'\n é北京🙂"), min_size=1, max_size=12),
    st.text(st.sampled_from("Rome cats.'é北京"), min_size=1, max_size=8),
)
def test_prompt_and_answer_together_are_the_tokens_of_running_text(
    prompt: str, answer: str
) -> None:
    assume(prompt.strip() and answer.strip())
    ((before, labels),) = continuations(TOKENIZER, [(prompt, answer)])
    text = TOKENIZER.decode(before + labels)
    assert text.startswith(stem(prompt))
    assert text.endswith(stem(answer))
    gap = text[len(stem(prompt)) : len(text) - len(stem(answer))]
    assert gap in ("", " ")
    assert labels
    assert before + labels in (
        tokenise(TOKENIZER, text),  # unless the prompt is one token with the answer's beginning
        tokenise(TOKENIZER, stem(prompt)) + tokenise(TOKENIZER, gap + stem(answer)),
    )


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("The capital of France is", " "),
        ("What is the capital of France?", " "),
        ("Столица Франции —", " "),
        ("프랑스의 수도는", " "),  # Korean puts blanks between words
        ("1 + 1 =", " "),
        ("法国的首都是", ""),
        ("首都は？", ""),
        ("เมืองหลวงของฝรั่งเศสคือ", ""),
        ("ប្រទេសបារាំង", ""),
        ("法国的首都：", ""),
        ("He said (", ""),
        ('The sign reads "', ""),
        ('"The sign" says', " "),
        ("Er rief „", ""),
        ("A:\n", ""),
        ("<|user|>Who?<|assistant|>", ""),
    ],
)
def test_what_separates_an_answer_follows_script_and_prompt(prompt: str, expected: str) -> None:
    assert separator_of(prompt, ("<|user|>", "<|assistant|>")) == expected


def test_a_separator_can_be_given() -> None:
    for separator, prompt, answer, text in [
        (None, "法国的首都是", "巴黎", "法国的首都是巴黎"),
        (" ", "法国的首都是", "巴黎", "法国的首都是 巴黎"),
        ("", "The violin pla", "ys", "The violin plays"),
    ]:
        ((before, labels),) = continuations(TOKENIZER, [(prompt, answer)], separator)
        assert before + labels == tokenise(TOKENIZER, text)


def test_a_token_of_prompt_and_answer_is_the_answers() -> None:
    """As in running text: the prompt alone would end in another token."""
    tokenizer = fast_tokenizer()
    assert tokenise(tokenizer, " cats") != tokenise(tokenizer, " cat") + tokenise(tokenizer, "s")
    ((before, labels),) = continuations(tokenizer, [("The cat", "s")], "")
    assert (before, labels) == (tokenise(tokenizer, "The"), tokenise(tokenizer, " cats"))


def test_an_answer_that_takes_all_of_its_prompt_is_tokenised_by_itself() -> None:
    assert len(tokenise(TOKENIZER, "The")) == 1
    ((before, labels),) = continuations(TOKENIZER, [("Th", "e")], "")
    assert (before, labels) == (tokenise(TOKENIZER, "Th"), tokenise(TOKENIZER, "e"))


def test_chat_text_begins_once() -> None:
    tokenizer = fast_tokenizer("bos")
    plain = tokenise(tokenizer, PROMPT)
    assert plain[0] == tokenizer.bos_token_id
    assert tokenise(tokenizer, tokenizer.bos_token + PROMPT) == plain
    assert target_ids(tokenizer, tokenizer.bos_token + PROMPT, "Rome") == target_ids(
        tokenizer, PROMPT, "Rome"
    )
    (coded,) = encode(tokenizer, [tokenizer.bos_token + PROMPT], offsets=True)
    assert len(coded.offsets) == len(coded.ids)
    # A tokenizer that begins with nothing keeps what the text begins with.
    other = fast_tokenizer()
    assert tokenise(other, other.bos_token * 2 + "a")[:2] == [other.bos_token_id] * 2


def test_answers_carry_no_special_token() -> None:
    tokenizer = fast_tokenizer("bos")
    for prompt, answer in ((PROMPT, "Rome"), ("The cat", "s")):
        assert tokenizer.bos_token_id not in target_ids(tokenizer, prompt, answer)


@pytest.mark.parametrize("kind", ["byte_level", "bos"])
def test_an_answer_may_end_the_text(kind: str) -> None:
    tokenizer = fast_tokenizer(kind)
    end = tokenizer.eos_token
    assert target_ids(tokenizer, PROMPT, "Rome" + end) == [
        *target_ids(tokenizer, PROMPT, "Rome"),
        tokenizer.eos_token_id,
    ]
    assert target_ids(tokenizer, PROMPT, end) == [tokenizer.eos_token_id]


def test_an_answer_without_a_token_is_refused() -> None:
    class Mute:
        eos_token_id = None

        def __call__(self, texts: Any, **_: Any) -> dict[str, list[Any]]:
            return {"input_ids": [[5] for _ in texts]}

    with pytest.raises(RequestError, match="'Rome' has no token"):
        target_ids(Mute(), "The", "Rome")
