"""Tokenized sentences with the position of their fact token, context templates, and batches.

The position is computed from the tokenizer's character offsets, so that special tokens, merges and
punctuation cannot shift it. An uncertain position is an error, never a guess.
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
    """A tokenized text and the position of its fact token.

    Attributes:
        ids: token ids, without padding.
        position: index of the fact token in ``ids``.
        beside: other text in the fact token, if the tokenizer merges it with the subject.
    """

    ids: tuple[int, ...]
    position: int
    beside: str = ""

    def until_fact(self) -> Sentence:
        """The sentence up to its fact token; by causality, nothing after it changes that token."""
        return Sentence(self.ids[: self.position + 1], self.position)


@dataclass(frozen=True)
class Batch:
    """Sentences padded on the right, where padding moves no position and is never attended to.

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
    """Texts to put before a prompt, so that its key does not depend on one context.

    Attributes:
        groups: each template has one ``{}``. A key is the mean over groups of the mean within a
            group, so MEMIT's ``(("{}",), generated)`` gives the bare prompt half of the weight.
    """

    groups: tuple[tuple[str, ...], ...]

    @property
    def flat(self) -> tuple[str, ...]:
        """All templates, first the bare ``"{}"``."""
        return tuple(template for group in self.groups for template in group)

    def around(self, tokenizer: Any, prompt: str) -> list[str]:
        """``prompt`` in each template; text that begins with a special token (chat) stays alone."""
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
            templates: texts with one ``{}`` each; a bare ``"{}"`` is not repeated.
            bare_apart: whether the bare prompt is a separate group (MEMIT) or one template among
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
    """Tokenize ``template`` with ``subject`` in its slot and find the fact token.

    The subject's last token is the one with its last character, even if that token also holds
    other text (as in ROME's ``repr_tools``): see `Sentence.beside`.

    Args:
        tokenizer: fast or slow; padding side and BOS do not matter.
        template: text with a slot; trailing blanks are dropped.
        subject: goes into the slot.
        fact_token: which token to find. `SUBJECT_FIRST_AFTER_LAST` is the subject's last token if
            nothing follows the subject.

    Raises:
        RequestError: the tokenizer dropped the subject, or it is slow and merges the subject with
            the text after it.
    """
    prefix, suffix = split_slot(template)
    text = stem(prefix + subject + suffix)
    if fact_token is FactToken.last:
        ids = tokenise(tokenizer, text)
        return Sentence(tuple(ids), len(ids) - 1)
    if getattr(tokenizer, "is_fast", False):
        first, last = _span_by_offsets(tokenizer, text, len(prefix), len(prefix + subject))
    else:
        first, last = _span_by_prefix(tokenizer, text, prefix, subject)
    if fact_token is FactToken.subject_first:
        return first
    if fact_token is FactToken.subject_last:
        return last
    return replace(last, position=min(last.position + 1, len(last.ids) - 1), beside="")


def complete(
    lm: EditableModel,
    template: str,
    subject: str,
    answer: str,
    fact_token: FactToken,
    end: Sequence[int] = (),
) -> tuple[Sentence, list[int]]:
    """As `locate`, followed by all but the last token of an answer.

    Returns:
        The sentence, and all tokens of the answer: those of running text, unless the fact token
        would change, and then ``end``.

    Raises:
        RequestError: see `locate`; or the answer has no token.
    """
    tokenizer = lm.tokenizer
    sentence = locate(tokenizer, template, subject, fact_token)
    prompt = stem(subject.join(split_slot(template)))
    whole = running_text(prompt, answer, lm.separator, special_tokens(tokenizer))
    before, labels = split(
        tokenizer, list(sentence.ids), tokenise(tokenizer, whole), whole[len(prompt) :],
        least=sentence.position + 1,
    )  # fmt: skip
    labels += end
    return replace(sentence, ids=(*before, *labels[:-1])), labels


def _span_by_offsets(tokenizer: Any, text: str, start: int, end: int) -> tuple[Sentence, Sentence]:
    """``text`` at the first and at the last token of the characters ``start:end``."""
    (encoded,) = encode(tokenizer, [text], offsets=True)
    inside = [i for i, (a, b) in enumerate(encoded.offsets) if a < end and b > start and b > a]
    if not inside:
        raise RequestError(
            f"the tokenizer dropped subject {quoted(text[start:end])} from {quoted(text)}"
        )
    ids, (a, b) = tuple(encoded.ids), encoded.offsets[inside[-1]]
    beside = (text[a:start] + text[end:b]).strip()
    return Sentence(ids, inside[0]), Sentence(ids, inside[-1], beside)


def _span_by_prefix(
    tokenizer: Any, text: str, prefix: str, subject: str
) -> tuple[Sentence, Sentence]:
    """As `_span_by_offsets`, for tokenizers without offsets: compares tokens of the beginnings."""
    ids = tuple(tokenise(tokenizer, text))
    through = tuple(tokenise(tokenizer, prefix + subject))
    if ids[: len(through)] != through:
        raise RequestError(
            f"subject {quoted(subject)} is tokenized differently inside {quoted(text)}, and this "
            "slow tokenizer gives no offsets: use its fast version"
        )
    before = tokenise(tokenizer, prefix.rstrip())
    pairs = enumerate(zip(before, ids, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), len(before))
    last = len(through) - 1
    return Sentence(ids, min(first, last)), Sentence(ids, last)


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
    """A token id for padding; it is masked, but the model must be able to embed it."""
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    for token_id in (lm.tokenizer.pad_token_id, lm.tokenizer.eos_token_id):
        if token_id is not None and token_id < vocabulary:
            return int(token_id)
    return 0
