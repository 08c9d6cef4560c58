"""Writing on, token after token: on the model's own cache, or without one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.models.batching import activation_bytes, in_token_budget
from alphaedit_plugin.models.boundary import stem, tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import head_only_at, inference
from alphaedit_plugin.models.prefix_cache import (
    cache_name,
    can_resume,
    padded_left,
    position_ids,
)
from alphaedit_plugin.models.scoring import check_room
from alphaedit_plugin.models.tokens import Sentence, collate

BUDGET = 16384  # tokens of the rows that are written at once
# A line break; or a sentence's end before a blank, unless it is the dot of an initial ("J. Doe").
STOP = re.compile(r"\n|(?<!\b[A-Z])[.!?]['\"”’)]*(?=\s)")
SENTENCE_END = re.compile(r"[.!?]['\"”’)]*\s*$")

Choose = Callable[[Tensor, Sequence[int]], Sequence[int]]


@dataclass(frozen=True)
class Continuation:
    """What a model says after a prompt.

    Attributes:
        text: up to its stop, without surrounding blanks.
        ended: whether the model stopped by itself; ``False`` where the limit was hit.
    """

    text: str
    ended: bool


def write_on(
    lm: EditableModel,
    rows: Sequence[list[int]],
    choose: Choose,
    goes_on: Callable[[int], bool],
) -> None:
    """Append tokens to ``rows``, in place, while they go on.

    Without gradients only. The first pass reads whole rows, so that a batch which ran out of memory
    continues from the tokens it has.

    Args:
        lm: the model as it is now.
        rows: token ids; at least one in each.
        choose: given logits ``(m, vocabulary)`` and the numbers of the rows they follow, the next
            token of each.
        goes_on: whether a row, by its number, gets another token.
    """
    going = [number for number in range(len(rows)) if goes_on(number)]
    cached: _Cached | None = None
    while going:
        if cached is None or not can_resume(lm):
            cached, logits = _read(lm, [rows[number] for number in going])
        else:
            logits = cached.read([rows[number][-1] for number in going])
        for number, token in zip(going, choose(logits, going), strict=True):
            rows[number].append(token)
        stay = [place for place, number in enumerate(going) if goes_on(number)]
        if stay and len(stay) < len(going):
            cached.select(stay)
        going = [going[place] for place in stay]


@dataclass
class _Cached:
    """Rows that a model has read.

    Attributes:
        past: the model's cache; ``None`` where it is of no use.
        mask: ``(m, width)``, of the cache's columns.
    """

    lm: EditableModel
    past: Any
    mask: Tensor

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Logits ``(m, vocabulary)`` after one more token of each row."""
        ids = torch.tensor(tokens, device=self.mask.device)[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        rows = torch.arange(len(ids), device=ids.device)
        with head_only_at(self.lm.model, rows, torch.zeros_like(rows)):
            output = self.lm.model(
                input_ids=ids,
                attention_mask=self.mask,
                use_cache=True,
                **position_ids(self.lm, self.mask, width=1),
                **{cache_name(self.lm): self.past},
            )
        self.past = getattr(output, cache_name(self.lm))
        logits: Tensor = output.logits[0]
        return logits.to(ids.device)

    def select(self, rows: Sequence[int]) -> None:
        """Forget all other rows."""
        if self.past is not None:
            chosen = torch.tensor(rows, device=self.mask.device)
            self.past.batch_select_indices(chosen)
            self.mask = self.mask[chosen]


def _read(lm: EditableModel, rows: Sequence[Sequence[int]]) -> tuple[_Cached, Tensor]:
    """The cache of ``rows``, and logits ``(m, vocabulary)`` after them."""
    cached = can_resume(lm)
    batch = collate(lm, [Sentence(tuple(row), len(row) - 1) for row in rows])
    arguments: dict[str, Any] = {"use_cache": cached}
    if cached:  # what follows is in the next column, then
        batch = padded_left(batch)
        arguments |= position_ids(lm, batch.attention_mask)
    everyone = torch.arange(len(rows), device=lm.device)
    with head_only_at(lm.model, everyone, batch.positions):
        output = lm.model(**batch.inputs(), **arguments)
    past = getattr(output, cache_name(lm)) if cached else None
    return _Cached(lm, past, batch.attention_mask), output.logits[0].to(lm.device)


def cached_bytes(lm: EditableModel) -> float:
    """Estimated bytes of one token in the cache; 0 for a model that is read without one."""
    if not can_resume(lm):
        return 0.0
    weight = lm.parameter(0)
    return 2 * lm.depth * weight.dtype.itemsize * weight.numel() / lm.key_size(0)


def continue_greedily(
    lm: EditableModel, prompts: Sequence[str], lengths: Sequence[int], budget: int = BUDGET
) -> list[str]:
    """The model's greedy continuation of each prompt, up to the end of its text.

    Args:
        lm: the model as it is now.
        prompts: what to continue; trailing blanks are dropped.
        lengths: new tokens per prompt; fewer if the model ends its text.
        budget: padded tokens per forward pass.

    Returns:
        The continuations, without prompts and surrounding white space.

    Raises:
        RequestError: a prompt has no token, or exceeds the model's context with its continuation.
        OutOfMemory: see `in_token_budget`.
    """
    rows = [tokenise(lm.tokenizer, stem(lm.asked(prompt))) for prompt in prompts]
    for prompt, row, length in zip(prompts, rows, lengths, strict=True):
        check_room(lm, prompt, row, length - 1)  # the last token is not read
    ends = {lm.tokenizer.eos_token_id}
    new = _greedy(lm, rows, lengths, lambda ids: ids[-1] in ends, budget)
    return [_decode(lm, ids, ends).strip() for ids in new]


def say(
    lm: EditableModel, prompts: Sequence[str], limit: int, budget: int = BUDGET
) -> list[Continuation]:
    """The model's greedy continuation of each prompt, up to its natural stop.

    It stops at an end-of-text token, a line break, or a sentence's end: ``.``, ``!`` or ``?``
    before a blank (so one more token is read). EasyEdit stops at any dot, ``3.5``'s included.

    Args:
        lm: the model as it is now.
        prompts: complete texts, special tokens included.
        limit: new tokens at most; fewer where the model's context ends.
        budget: padded tokens per forward pass.

    Raises:
        RequestError: a prompt has no token, or fills the model's context.
        OutOfMemory: see `in_token_budget`.
    """
    rows = [tokenise(lm.tokenizer, prompt) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        check_room(lm, prompt, row, 0)
    room = lm.context_length
    lengths = [limit if room is None else min(limit, room - len(row) + 1) for row in rows]
    ends = ends_of(lm)

    def stops(ids: list[int]) -> bool:
        return ids[-1] in ends or STOP.search(_decode(lm, ids, ends)) is not None

    new = _greedy(lm, rows, lengths, stops, budget)
    return [_continuation(lm, ids, ends) for ids in new]


def ends_of(lm: EditableModel) -> set[int]:
    """Tokens that end a text: the tokenizer's, and those of the model's generation settings."""
    named = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return {lm.tokenizer.eos_token_id, *several} - {None}


def _greedy(
    lm: EditableModel,
    prompts: Sequence[list[int]],
    lengths: Sequence[int],
    stops: Callable[[list[int]], bool],
    budget: int,
) -> list[list[int]]:
    """Per prompt, the tokens that follow it: ``lengths`` at most, ``stops`` looks at them."""
    rows, starts = [list(prompt) for prompt in prompts], [len(prompt) for prompt in prompts]
    sizes = [start + length for start, length in zip(starts, lengths, strict=True)]

    def work(indices: list[int]) -> None:
        def goes_on(number: int) -> bool:
            row, start = rows[indices[number]], starts[indices[number]]
            if len(row) >= sizes[indices[number]]:
                return False
            return len(row) == start or not stops(row[start:])

        batch = [rows[index] for index in indices]
        write_on(lm, batch, lambda logits, _: logits.float().argmax(1).tolist(), goes_on)

    with torch.no_grad(), inference(lm.model):
        in_token_budget(lm, sizes, budget, work, activation_bytes(lm) + cached_bytes(lm))
    return [row[start:] for row, start in zip(rows, starts, strict=True)]


def _decode(lm: EditableModel, ids: list[int], ends: set[int]) -> str:
    """The text of ``ids`` before the first token that ends it."""
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return str(lm.tokenizer.decode(ids[:end], skip_special_tokens=True))


def _continuation(lm: EditableModel, ids: list[int], ends: set[int]) -> Continuation:
    text = _decode(lm, ids, ends)
    stop = STOP.search(text)
    ended = stop is not None or not ends.isdisjoint(ids) or SENTENCE_END.search(text) is not None
    return Continuation((text if stop is None else text[: stop.end()]).strip(), ended)
