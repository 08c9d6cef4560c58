"""Tokenizing text, and the boundary between a prompt and its answer.

A prompt and its answer are tokenized together, as running text. The answer's tokens are those that
the prompt alone does not have: a blank, or a character in one token with the prompt's, goes where
the tokenizer puts it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alphaedit_plugin.common.errors import RequestError, quoted

# First words of the Unicode names of letters in scripts without blanks between words.
UNSPACED = frozenset(
    {
        *("CJK", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH", "HIRAGANA", "KATAKANA", "BOPOMOFO"),
        *("YI", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"),
    }
)
OPENING = ("Ps", "Pi")  # Unicode categories of opening brackets and quotation marks
NEWLINES = "\n\r\v\f\x85\u2028\u2029"


@dataclass(frozen=True)
class Encoded:
    """A tokenized text.

    Attributes:
        ids: token ids, including the special tokens that the tokenizer puts before the text.
        offsets: ``(start, end)`` characters of each token, if requested.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


def encode(tokenizer: Any, texts: Sequence[str], *, offsets: bool = False) -> list[Encoded]:
    """Tokenize texts in one call.

    A text that begins with the tokenizer's special tokens (a chat template's) does not get them
    twice. An end-of-sequence token that the tokenizer appends is dropped: the answer follows.
    """
    if not texts:
        return []
    settings = {"return_offsets_mapping": True} if offsets else {}
    output = tokenizer(list(texts), **settings)
    spans = output["offset_mapping"] if offsets else [[]] * len(texts)
    special = special_tokens(tokenizer)
    return [
        _trimmed(tokenizer, Encoded(list(ids), list(pairs)), text, special)
        for text, ids, pairs in zip(texts, output["input_ids"], spans, strict=True)
    ]


def _trimmed(tokenizer: Any, encoded: Encoded, text: str, special: tuple[str, ...]) -> Encoded:
    """``encoded`` without a second beginning, and without an end that ``text`` does not have."""
    ids, eos = encoded.ids, [tokenizer.eos_token_id]
    spelled = text.endswith(special) and text.endswith(tokenizer.eos_token or "\0")
    end = len(ids) - (len(ids) > 1 and (ids[-2:] == eos * 2 if spelled else ids[-1:] == eos))
    beginning = list(tokenizer("")["input_ids"]) if text.startswith(special) else []
    twice = bool(beginning) and ids[: 2 * len(beginning)] == beginning * 2
    start = len(beginning) if twice else 0
    return Encoded(ids[start:end], encoded.offsets[start:end])


def tokenise(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text``; see `encode`."""
    return encode(tokenizer, [text])[0].ids


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The texts of the special tokens, including those of chat templates."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return tuple(token.content for token in added if token.special)


def stem(prompt: str) -> str:
    """A prompt without trailing blanks, which running text puts into the next token.

    Line breaks stay: they are separate tokens.
    """
    blanks = "".join({c for c in prompt if c.isspace()} - set(NEWLINES))
    return prompt.rstrip(blanks) if blanks else prompt


def separator_of(prompt: str, special: tuple[str, ...]) -> str:
    """A blank, or nothing: what running text has between ``prompt`` and its answer.

    Nothing after a line break, an opening bracket or quotation mark, or a special token, and in
    scripts without blanks between words.
    """
    last = prompt[-1:]
    quote = last == '"' and prompt.count('"') % 2 == 1
    if not last or last.isspace() or quote or unicodedata.category(last) in OPENING:
        return ""
    letter = next((c for c in reversed(prompt) if c.isalnum()), " ")
    script = unicodedata.name(letter, "").replace("-", " ").partition(" ")[0]
    return "" if script in UNSPACED or prompt.endswith(special) else " "


def continuations(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], separator: str | None = None
) -> list[tuple[list[int], list[int]]]:
    """Tokens of each prompt, and of its answer as it follows in running text.

    Args:
        tokenizer: called once, for all texts.
        pairs: (prompt, answer); trailing blanks of either are dropped.
        separator: put before answers that do not begin with white space; ``None`` for
            `separator_of`.

    Raises:
        RequestError: an answer has no token.
    """
    special = special_tokens(tokenizer)
    prompts = [stem(prompt) for prompt, _ in pairs]
    wholes = [running_text(*pair, separator, special) for pair in pairs]
    texts = list(dict.fromkeys([*prompts, *wholes]))
    ids = {text: one.ids for text, one in zip(texts, encode(tokenizer, texts), strict=True)}
    return [
        split(tokenizer, ids[prompt], ids[whole], whole[len(prompt) :])
        for prompt, whole in zip(prompts, wholes, strict=True)
    ]


def running_text(prompt: str, answer: str, separator: str | None, special: tuple[str, ...]) -> str:
    """A prompt and its answer as one text; see `continuations` and `special_tokens`."""
    prompt, answer = stem(prompt), stem(answer)
    if answer[:1].isspace() or answer.startswith(special):
        return prompt + answer
    return prompt + (separator_of(prompt, special) if separator is None else separator) + answer


def split(
    tokenizer: Any, prompt: list[int], whole: list[int], answer: str, least: int = 1
) -> tuple[list[int], list[int]]:
    """Split the tokens of a running text into the prompt's and the answer's.

    Args:
        tokenizer: of both.
        prompt: tokens of the prompt alone.
        whole: tokens of the prompt and the answer.
        answer: the answer with its separator.
        least: how many tokens must stay with the prompt. If the answer shares one of these, it is
            tokenized separately.

    Raises:
        RequestError: the answer has no token.
    """
    pairs = enumerate(zip(prompt, whole, strict=False))
    common = next((i for i, (a, b) in pairs if a != b), min(len(prompt), len(whole)))
    before, labels = whole[:common], whole[common:]
    if common < least:
        before, labels = prompt, list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    if not labels:
        raise RequestError(f"target {quoted(answer.strip())} has no token in this tokenizer")
    return before, labels
