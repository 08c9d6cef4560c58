"""From text to tokens: context templates, targets, and where the subject stands.

The fact token's position is taken from the tokenizer's character offsets, so that special tokens,
merges and punctuation cannot shift it; a position that is not certain is an error, never a guess.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.errors import RequestError, quoted
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.request import SLOT


class FactToken(str, Enum):
    """Which token of a prompt holds the fact (ROME, Meng et al. 2022, §3)."""

    subject_last = "subject_last"
    subject_first = "subject_first"
    subject_first_after_last = "subject_first_after_last"
    last = "last"


@dataclass(frozen=True)
class Sentence:
    """A tokenised text and the position of its fact token.

    Attributes:
        ids: token ids, without padding.
        position: index of the fact token in ``ids``.
    """

    ids: tuple[int, ...]
    position: int

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


def tokenise(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text``, with the special tokens the tokenizer puts before it."""
    return _without_end(tokenizer, list(tokenizer(text)["input_ids"]))


def _without_end(tokenizer: Any, ids: list[int]) -> list[int]:
    """``ids`` without an end-of-sequence token behind them: the answer is to follow there."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def continuations(
    tokenizer: Any, pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """Tokens of each prompt, and of the target as it follows that prompt, one space between.

    Args:
        tokenizer: called once, for all texts together.
        pairs: (prompt, target).

    Raises:
        RequestError: a target has no token.
    """
    spaced = [
        target if target[:1].isspace() or prompt[-1:].isspace() else " " + target
        for prompt, target in pairs
    ]
    whole = [prompt + target for (prompt, _), target in zip(pairs, spaced, strict=True)]
    texts = list(dict.fromkeys([*(prompt for prompt, _ in pairs), *whole]))
    encoded = tokenizer(texts)["input_ids"] if texts else []
    known = {
        text: _without_end(tokenizer, list(ids)) for text, ids in zip(texts, encoded, strict=True)
    }
    found = []
    for (prompt, asked), target, text in zip(pairs, spaced, whole, strict=True):
        before, together = known[prompt], known[text]
        ids = together[len(before) :]
        if together[: len(before)] != before:
            ids = list(tokenizer(target, add_special_tokens=False)["input_ids"])
        if not ids:
            raise RequestError(f"target {quoted(asked)} has no token in this tokenizer")
        found.append((before, ids))
    return found


def target_ids(tokenizer: Any, prompt: str, target: str) -> list[int]:
    """The tokens of one target; see `continuations`."""
    return continuations(tokenizer, [(prompt, target)])[0][1]


def locate(tokenizer: Any, template: str, subject: str, fact_token: FactToken) -> Sentence:
    """Tokenise ``template`` with ``subject`` in its slot and find the fact token.

    Args:
        tokenizer: fast or slow; padding side and BOS do not matter.
        template: text with one ``{}``.
        subject: goes into the slot.
        fact_token: which token to find. `SUBJECT_FIRST_AFTER_LAST` is the subject's last token
            where nothing follows the subject.

    Raises:
        RequestError: a token holds both the subject's edge and its neighbour's text, or the
            tokenizer lost the subject.
    """
    prefix, _, suffix = template.partition(SLOT)
    text = prefix + subject + suffix
    if fact_token is FactToken.last:
        ids = tokenise(tokenizer, text)
        return Sentence(tuple(ids), len(ids) - 1)
    if getattr(tokenizer, "is_fast", False):
        ids, first, last = _span_by_offsets(tokenizer, text, len(prefix), len(prefix + subject))
    else:
        ids, first, last = _span_by_prefix(tokenizer, text, prefix, subject)
    if fact_token is FactToken.subject_first:
        position = first
    elif fact_token is FactToken.subject_last:
        position = last
    else:
        position = min(last + 1, len(ids) - 1)
    return Sentence(tuple(ids), position)


def _span_by_offsets(tokenizer: Any, text: str, start: int, end: int) -> tuple[list[int], int, int]:
    """Ids of ``text``, and the first and last token of its characters ``start:end``."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids = _without_end(tokenizer, list(encoded["input_ids"]))
    offsets = encoded["offset_mapping"][: len(ids)]
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    if not inside:
        raise RequestError(
            f"the tokenizer dropped subject {quoted(text[start:end])} from {quoted(text)}"
        )
    first, last = inside[0], inside[-1]
    before = text[offsets[first][0] : start]
    after = text[end : offsets[last][1]] + _lost_mark(text, end, offsets)
    if before.strip() or after.strip():
        raise RequestError(
            f"the tokenizer merges subject {quoted(text[start:end])} with the text around it in "
            f"{quoted(text)} (token {text[offsets[last][0] : offsets[last][1]]!r}): "
            "put a space or other punctuation beside the subject"
        )
    return ids, first, last


def _lost_mark(text: str, index: int, offsets: Sequence[tuple[int, int]]) -> str:
    """The combining mark at ``index`` if no token has it: a normalizer put it on what is before."""
    mark = text[index : index + 1]
    lost = bool(mark) and unicodedata.combining(mark) != 0
    return mark if lost and not any(a <= index < b for a, b in offsets) else ""


def _span_by_prefix(
    tokenizer: Any, text: str, prefix: str, subject: str
) -> tuple[list[int], int, int]:
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
    return ids, min(first, len(through) - 1), len(through) - 1


def collate(view: EditableModel, sentences: Sequence[Sentence]) -> Batch:
    """Pad ``sentences`` on the right and put them on the model's device."""
    length = max(len(sentence.ids) for sentence in sentences)
    ids = torch.full((len(sentences), length), pad_id(view), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence.ids)] = torch.tensor(sentence.ids)
        mask[row, : len(sentence.ids)] = 1
    positions = torch.tensor([sentence.position for sentence in sentences])
    return Batch(ids.to(view.device), mask.to(view.device), positions.to(view.device))


def pad_id(view: EditableModel) -> int:
    """A token id to fill up with; it is masked, but must be one that the model can embed."""
    known = view.model.get_input_embeddings().num_embeddings
    for token_id in (view.tokenizer.pad_token_id, view.tokenizer.eos_token_id):
        if token_id is not None and token_id < known:
            return int(token_id)
    return 0


def by_token_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices into batches of similar length, at most ``budget`` padded tokens each.

    Args:
        lengths: token count of each item.
        budget: largest ``rows × longest row`` of a batch; one item alone may exceed it.

    Returns:
        Lists of indices, longest items first, so that running out of memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
