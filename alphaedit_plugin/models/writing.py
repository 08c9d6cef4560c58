"""Texts that a model writes itself, sampled at temperature 1: its own corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.models.batching import activation_bytes, in_token_budget
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.decoding import cached_bytes, ends_of, write_on
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.generation import refuse_nan
from alphaedit_plugin.models.hooks import inference
from alphaedit_plugin.models.prefix_cache import can_resume

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
        ends = {token, lm.tokenizer.pad_token_id, *ends_of(lm)} - {None}
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
    rows = [[manuscript.start] for _ in numbers]

    def work(indices: list[int]) -> None:
        texts, draws = [rows[i] for i in indices], _draws(manuscript, [numbers[i] for i in indices])

        def choose(logits: Tensor, going: Sequence[int]) -> Sequence[int]:
            drawn = [draws[number, len(texts[number])] for number in going]
            tokens = sample(refuse_nan(logits, logits), torch.stack(drawn).to(logits.device))
            on_tokens(len(going) - int(torch.isin(tokens.cpu(), ends).sum()))
            return tokens.tolist()

        def goes_on(number: int) -> bool:
            row = texts[number]
            return len(row) < manuscript.length and (
                len(row) == 1 or row[-1] not in manuscript.ends
            )

        write_on(lm, texts, choose, goes_on)

    ends = torch.tensor(manuscript.ends)
    with torch.no_grad(), inference(lm.model):
        lengths = [manuscript.length] * len(rows)
        in_token_budget(lm, lengths, budget, work, _token_bytes(lm, manuscript.length))
    first = 0 if manuscript.keeps_start else 1
    return [_ended(row, manuscript.ends)[first:] for row in rows]


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
    return activation_bytes(lm, length=length, logits=1) / length + cached_bytes(lm)


def _ended(ids: list[int], ends: Sequence[int]) -> list[int]:
    """``ids`` before the first token after the start that ends a text."""
    return ids[: next((i for i in range(1, len(ids)) if ids[i] in ends), len(ids))]


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
