"""From text to tokens: one beginning, and where a prompt ends and its answer begins.

A prompt and its answer are tokenised together, as the running text they make. The answer's tokens
are those that the prompt alone does not have, so that a blank, or a character that a token shares
with the prompt, goes where the tokenizer puts it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alphaedit_plugin.common.errors import RequestError, quoted

# First words of the Unicode names of letters that are written without blanks between words.
UNSPACED = frozenset(
    [
        *("CJK", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH", "HIRAGANA", "KATAKANA", "BOPOMOFO"),
        *("YI", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"),
    ]
)
Span = tuple[int, int]
OPENING = ("Ps", "Pi")  # Unicode categories of brackets and quotation marks that open
NEWLINES = "\n\r\v\f\x85\u2028\u2029"


@dataclass(frozen=True)
class Encoded:
    """A tokenised text.

    Attributes:
        ids: its token ids, with the special tokens that the tokenizer puts before it.
        offsets: the characters of each token, ``(start, end)``, where they were asked for.
    """

    ids: list[int]
    offsets: list[Span]


def encode(tokenizer: Any, texts: Sequence[str], *, offsets: bool = False) -> list[Encoded]:
    """Tokenise texts in one call; chat text that begins as the tokenizer begins gets no second BOS.

    An end-of-sequence token that the tokenizer puts after a text is left out, as the answer follows
    there.
    """
    if not texts:
        return []
    wanted = {"return_offsets_mapping": True} if offsets else {}
    coded = tokenizer(list(texts), **wanted)
    spans = coded["offset_mapping"] if offsets else [[]] * len(texts)
    special = special_tokens(tokenizer)
    return [
        _trimmed(tokenizer, Encoded(list(ids), list(places)), text, special)
        for text, ids, places in zip(texts, coded["input_ids"], spans, strict=True)
    ]


def _trimmed(tokenizer: Any, coded: Encoded, text: str, special: tuple[str, ...]) -> Encoded:
    """``coded`` without what the tokenizer adds to a ``text`` that has it, or after any text."""
    ids, last = coded.ids, [tokenizer.eos_token_id]
    spelled = text.endswith(special) and text.endswith(tokenizer.eos_token or "\0")
    end = len(ids) - (len(ids) > 1 and (ids[-2:] == last * 2 if spelled else ids[-1:] == last))
    own = list(tokenizer("")["input_ids"]) if text.startswith(special) else []
    start = len(own) if own and ids[: 2 * len(own)] == own * 2 else 0
    return Encoded(ids[start:end], coded.offsets[start:end])


def tokenise(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text``; see `encode`."""
    return encode(tokenizer, [text])[0].ids


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The texts that stand for special tokens, chat templates' among them."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return tuple(token.content for token in added if token.special)


def stem(prompt: str) -> str:
    """A prompt without the blanks after it, which running text puts into the next token.

    Line breaks stay, as they are tokens of their own.
    """
    blanks = "".join({c for c in prompt if c.isspace()} - set(NEWLINES))
    return prompt.rstrip(blanks) if blanks else prompt


def separator_of(prompt: str, special: tuple[str, ...]) -> str:
    """What running text has between ``prompt`` and its answer: a blank or nothing.

    Nothing after a line break, an opening bracket or quotation mark, or a special token (a chat
    template's), and in scripts that put no blanks between words.
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
    """Tokens of each prompt, and of the answer as it follows that prompt in running text.

    Args:
        tokenizer: called once, for all texts together.
        pairs: (prompt, answer); blanks after either are dropped.
        separator: what is put before answers that begin with no white space of their own; ``None``
            for `separator_of`.

    Raises:
        RequestError: an answer has no token.
    """
    special = special_tokens(tokenizer)
    prompts = [stem(prompt) for prompt, _ in pairs]
    wholes = [running_text(*pair, separator, special) for pair in pairs]
    texts = list(dict.fromkeys([*prompts, *wholes]))
    known = dict(zip(texts, (one.ids for one in encode(tokenizer, texts)), strict=True))
    return [
        split(tokenizer, known[prompt], known[whole], whole[len(prompt) :])
        for prompt, whole in zip(prompts, wholes, strict=True)
    ]


def running_text(prompt: str, answer: str, separator: str | None, special: tuple[str, ...]) -> str:
    """A prompt's `stem` and its answer as one text; see `continuations` and `special_tokens`."""
    prompt, answer = stem(prompt), stem(answer)
    if answer[:1].isspace() or answer.startswith(special):
        return prompt + answer
    return prompt + (separator_of(prompt, special) if separator is None else separator) + answer


def split(
    tokenizer: Any, prompt: list[int], whole: list[int], answer: str, least: int = 1
) -> tuple[list[int], list[int]]:
    """Part the tokens of a running text into the prompt's and the answer's.

    Args:
        tokenizer: of the two.
        prompt: tokens of the prompt alone.
        whole: tokens of the prompt and the answer.
        answer: the answer with what separates it.
        least: how many tokens must stay with the prompt; where the answer shares one of these, it
            is tokenised by itself.

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
