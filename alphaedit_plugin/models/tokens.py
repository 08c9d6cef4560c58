"""Sentences and where their fact token is; context templates; batches.

The fact token's position is taken from the tokenizer's character offsets, so that special tokens,
merges and punctuation cannot shift it; a position that is not certain is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import RequestError, quoted
from alphaedit_plugin.data.request import SLOT, FactToken, split_slot
from alphaedit_plugin.models.boundary import (
    encode,
    running_text,
    special_tokens,
    split,
    stem,
    tokenise,
)
from alphaedit_plugin.models.editable import EditableModel


@dataclass(frozen=True)
class Sentence:
    """A tokenised text and the position of its fact token.

    Attributes:
        ids: token ids, without padding.
        position: index of the fact token in ``ids``.
        beside: what the fact token holds besides the subject, where the tokenizer merges the two.
    """

    ids: tuple[int, ...]
    position: int
    beside: str = ""

    def until_fact(self) -> Sentence:
        """The sentence up to its fact token, which by causality nothing behind can change."""
        return Sentence(self.ids[: self.position + 1], self.position)


@dataclass(frozen=True)
class Batch:
    """Sentences padded on the right, where padding cannot move a position or be attended to.

    Attributes:
        input_ids: ``(n, length)`` int64.
        attention_mask: ``(n, length)`` int64, 1 on real tokens.
        positions: ``(n,)`` int64, the fact token of each row.
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments for the model's forward pass."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


@dataclass(frozen=True)
class ContextTemplates:
    """Texts that a prompt is put behind, so that its key does not depend on one context.

    Attributes:
        groups: each template has one ``{}``; a key is the mean over groups of the mean within a
            group, so MEMIT's ``(("{}",), generated)`` gives the bare prompt half of the weight.
    """

    groups: tuple[tuple[str, ...], ...]

    @property
    def flat(self) -> tuple[str, ...]:
        """All templates; the first is the bare prompt's ``"{}"``."""
        return tuple(template for group in self.groups for template in group)

    def around(self, tokenizer: Any, prompt: str) -> list[str]:
        """``prompt`` behind each template; chat text, which begins with a special token, alone."""
        if prompt.startswith(special_tokens(tokenizer)):
            return [prompt] * len(self.flat)
        return [template.replace(SLOT, prompt) for template in self.flat]

    @property
    def weights(self) -> Tensor:
        """``(len(flat),)`` float32: the share of each template in a key; they sum to 1."""
        return torch.tensor(
            [1 / len(self.groups) / len(group) for group in self.groups for _ in group]
        )

    @classmethod
    def of(cls, templates: Sequence[str], bare_apart: bool = True) -> ContextTemplates:
        """The bare prompt, followed by ``templates``.

        Args:
            templates: texts with one ``{}`` each; a bare ``"{}"`` among them is not repeated.
            bare_apart: the bare prompt is a group of its own (MEMIT) or one template among
                the others (ROME).

        Raises:
            RequestError: a template without exactly one slot.
        """
        others = tuple(template for template in templates if template != SLOT)
        for template in others:
            if template.count(SLOT) != 1:
                raise RequestError(f"context template {quoted(template)} needs exactly one '{{}}'")
        if bare_apart and others:
            return cls(((SLOT,), others))
        return cls(((SLOT, *others),))


def locate(tokenizer: Any, template: str, subject: str, fact_token: FactToken) -> Sentence:
    """Tokenise ``template`` with ``subject`` in its slot and find the fact token.

    A token that holds the subject's last character is its last token, also where it holds text
    beside the subject (as in ROME's ``repr_tools``): see `Sentence.beside`.

    Args:
        tokenizer: fast or slow; padding side and BOS do not matter.
        template: text with a slot; blanks after it are dropped.
        subject: goes into the slot.
        fact_token: which token to find. `SUBJECT_FIRST_AFTER_LAST` is the subject's last token
            where nothing follows the subject.

    Raises:
        RequestError: the tokenizer lost the subject, or it is a slow one that merges the subject
            with the text after it.
    """
    prefix, suffix = split_slot(template)
    text = stem(prefix + subject + suffix)
    if fact_token is FactToken.last:
        ids = tokenise(tokenizer, text)
        return Sentence(tuple(ids), len(ids) - 1)
    if getattr(tokenizer, "is_fast", False):
        span = _span_by_offsets(tokenizer, text, len(prefix), len(prefix + subject))
    else:
        span = _span_by_prefix(tokenizer, text, prefix, subject)
    if fact_token is FactToken.subject_first:
        return Sentence(span.ids, span.first)
    if fact_token is FactToken.subject_last:
        return Sentence(span.ids, span.last, span.beside)
    return Sentence(span.ids, min(span.last + 1, len(span.ids) - 1))


def complete(
    lm: EditableModel, template: str, subject: str, answer: str, fact_token: FactToken
) -> tuple[Sentence, list[int]]:
    """As `locate`, with all but the last token of an answer after the prompt.

    Returns:
        The sentence, and all tokens of the answer, in running text where the fact token stays what
        it is without the answer.

    Raises:
        RequestError: see `locate`; or the answer has no token.
    """
    tokenizer = lm.tokenizer
    found = locate(tokenizer, template, subject, fact_token)
    prompt = stem(subject.join(split_slot(template)))
    whole = running_text(prompt, answer, lm.separator, special_tokens(tokenizer))
    before, labels = split(
        tokenizer, list(found.ids), tokenise(tokenizer, whole), whole[len(prompt) :],
        least=found.position + 1,
    )  # fmt: skip
    return replace(found, ids=(*before, *labels[:-1])), labels


@dataclass(frozen=True)
class _Span:
    """Where a subject is in the tokens of a text; see `Sentence.beside`."""

    ids: tuple[int, ...]
    first: int
    last: int
    beside: str = ""


def _span_by_offsets(tokenizer: Any, text: str, start: int, end: int) -> _Span:
    """The first and last token of the characters ``start:end``."""
    (encoded,) = encode(tokenizer, [text], offsets=True)
    inside = [i for i, (a, b) in enumerate(encoded.offsets) if a < end and b > start and b > a]
    if not inside:
        raise RequestError(
            f"the tokenizer dropped subject {quoted(text[start:end])} from {quoted(text)}"
        )
    first, last = encoded.offsets[inside[-1]]
    beside = text[first:start] + text[end:last]
    return _Span(tuple(encoded.ids), inside[0], inside[-1], beside.strip())


def _span_by_prefix(tokenizer: Any, text: str, prefix: str, subject: str) -> _Span:
    """As `_span_by_offsets`, for tokenizers that know no offsets: by tokenising beginnings."""
    ids = tokenise(tokenizer, text)
    through = tokenise(tokenizer, prefix + subject)
    if ids[: len(through)] != through:
        raise RequestError(
            f"subject {quoted(subject)} is tokenised differently inside {quoted(text)}, and this "
            "slow tokenizer gives no offsets: use its fast version"
        )
    before = tokenise(tokenizer, prefix.rstrip())
    pairs = enumerate(zip(before, ids, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), len(before))
    return _Span(tuple(ids), min(first, len(through) - 1), len(through) - 1)


def collate(lm: EditableModel, sentences: Sequence[Sentence]) -> Batch:
    """Pad ``sentences`` on the right and put them on the model's device."""
    length = max(len(sentence.ids) for sentence in sentences)
    ids = torch.full((len(sentences), length), pad_id(lm), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence.ids)] = torch.tensor(sentence.ids)
        mask[row, : len(sentence.ids)] = 1
    positions = torch.tensor([sentence.position for sentence in sentences])
    return Batch(ids.to(lm.device), mask.to(lm.device), positions.to(lm.device))


def pad_id(lm: EditableModel) -> int:
    """A token id to fill up with; it is masked, but must be one that the model can embed."""
    known = lm.model.get_input_embeddings().num_embeddings
    for token_id in (lm.tokenizer.pad_token_id, lm.tokenizer.eos_token_id):
        if token_id is not None and token_id < known:
            return int(token_id)
    return 0
