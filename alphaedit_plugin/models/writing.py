"""Texts that a model writes itself, sampled at temperature 1: its own corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.models.batching import activation_bytes, in_token_budget
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.generation import refuse_nan
from alphaedit_plugin.models.hooks import head_only_at, inference
from alphaedit_plugin.models.prefix_cache import cache_name, can_resume

BUDGET = 16384  # tokens of the texts that are written at once


@dataclass(frozen=True)
class Manuscript:
    """What determines a model's texts; text ``i`` does not depend on how many others are written.

    Attributes:
        start: the token that begins a document.
        keeps_start: whether it is part of the text: where the tokenizer puts it before every text,
            so that the model reads its own texts as it reads any other.
        ends: tokens that end one, padding among them; never part of it.
        length: of a text at most, with ``start``.
        seed: of the sampling.
    """

    start: int
    keeps_start: bool
    ends: tuple[int, ...]
    length: int
    seed: int

    @classmethod
    def of(
        cls, lm: EditableModel, length: int, seed: int = 0, start: str | None = None
    ) -> Manuscript:
        """Texts of a model; ``start`` by default is its bos, or else its eos.

        Raises:
            ConfigError: the tokenizer has no token ``start``, or it has neither bos nor eos.
        """
        token = _start(lm, start)
        generation = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
        named = generation if isinstance(generation, list) else [generation]
        tokenizer = lm.tokenizer
        ends = {token, tokenizer.eos_token_id, tokenizer.pad_token_id, *named} - {None}
        return cls(
            token,
            tokenise(lm.tokenizer, "")[:1] == [token],
            tuple(sorted(ends)),
            min(length, lm.context_length or length),
            seed,
        )


def write_texts(
    lm: EditableModel,
    manuscript: Manuscript,
    numbers: Sequence[int],
    on_tokens: Callable[[int], None] = lambda count: None,
    budget: int = BUDGET,
) -> list[list[int]]:
    """Sample some of the texts that the model writes.

    Args:
        lm: the model as it is now.
        manuscript: decides the texts.
        numbers: which of them. The same ones in other batches are the same, unless a draw falls
            on what rounding moves.
        on_tokens: called with the number of tokens just written.
        budget: tokens at once.

    Returns:
        Token ids of each text; empty where the model ends at once.

    Raises:
        NumericalError: the model predicts nan.
        OutOfMemory: see `in_token_budget`.
    """
    texts: list[list[int]] = [[] for _ in numbers]

    def work(rows: list[int]) -> None:
        draws = _draws(manuscript, [numbers[row] for row in rows])
        for row, text in zip(rows, _write(lm, manuscript, draws, on_tokens), strict=True):
            texts[row] = text

    with torch.no_grad(), inference(lm.model):
        lengths = [manuscript.length] * len(texts)
        in_token_budget(lm, lengths, budget, work, _token_bytes(lm, manuscript.length))
    return texts


def _start(lm: EditableModel, start: str | None) -> int:
    tokenizer = lm.tokenizer
    if start is None:
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ConfigError(
            "this model's tokenizer has neither bos nor eos: set model.moments.written.start to "
            "the token that begins its documents"
        )
    known = tokenizer.get_vocab()
    if start not in known:
        raise ConfigError(f"model.moments.written.start is {start!r}, no token of this tokenizer's")
    return int(known[start])


def _draws(manuscript: Manuscript, numbers: Sequence[int]) -> Tensor:
    """``(n, length)`` float64, uniform in [0, 1), seeded per text."""
    rows = [np.random.default_rng([manuscript.seed, number]) for number in numbers]
    return torch.from_numpy(np.stack([row.random(manuscript.length) for row in rows]))


def _token_bytes(lm: EditableModel, length: int) -> float:
    """Memory per token of a text: one token's activations and logits, and the cache."""
    if not can_resume(lm):
        return activation_bytes(lm, length=length, logits=1 / length)
    weight = lm.parameter(0)
    cached = 2 * lm.depth * weight.dtype.itemsize * weight.numel() / lm.key_size(0)
    return activation_bytes(lm, length=length, logits=1) / length + cached


def _write(
    lm: EditableModel, manuscript: Manuscript, draws: Tensor, on_tokens: Callable[[int], None]
) -> list[list[int]]:
    """One text per row of ``draws (n, length)``."""
    ends = torch.tensor(manuscript.ends, device=lm.device)
    ids = torch.full((len(draws), 1), manuscript.start, device=lm.device)
    going, past = torch.ones(len(draws), dtype=torch.bool, device=lm.device), None
    for column in range(1, manuscript.length):
        logits, past = _next(lm, ids, past)
        token = sample(logits, draws[:, column].to(ids.device))
        going = going & ~torch.isin(token, ends)
        count = int(going.sum())
        if count == 0:
            break
        on_tokens(count)
        ids = torch.cat([ids, token[:, None]], dim=1)
    first = 0 if manuscript.keeps_start else 1
    return [_ended(row, manuscript.ends)[first:] for row in ids.tolist()]


def _ended(ids: list[int], ends: Sequence[int]) -> list[int]:
    """``ids`` before the first token after the start that ends a text."""
    return ids[: next((i for i in range(1, len(ids)) if ids[i] in ends), len(ids))]


def _next(lm: EditableModel, ids: Tensor, past: Any) -> tuple[Tensor, Any]:
    """Logits ``(n, vocabulary)`` after ``ids (n, length)``, and the cache with all of them."""
    cached = can_resume(lm)
    fresh = ids[:, -1:] if cached else ids
    rows = torch.arange(len(ids), device=ids.device)
    arguments: dict[str, Any] = {"use_cache": cached}
    if past is not None:
        arguments[cache_name(lm)] = past
    with head_only_at(lm.model, rows, torch.full_like(rows, fresh.shape[1] - 1)):
        output = lm.model(input_ids=fresh, attention_mask=torch.ones_like(ids), **arguments)
    logits = refuse_nan(ids, output.logits[0].to(ids.device))
    return logits, getattr(output, cache_name(lm)) if cached else None


def sample(logits: Tensor, draws: Tensor) -> Tensor:
    """Tokens ``(n,)`` at temperature 1, by the inverse of their cumulative distribution.

    In float64: only draws within rounding of a bound could give another token elsewhere.

    Args:
        logits: ``(n, vocabulary)``.
        draws: ``(n,)`` float64, uniform in [0, 1).
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    sought = (draws * cumulative[:, -1])[:, None]
    found = torch.searchsorted(cumulative, sought, right=True)[:, 0]
    return found.clamp_max(logits.shape[1] - 1)
