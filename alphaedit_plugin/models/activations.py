"""Keys, values and hidden states at the fact token; one forward pass reads every site."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from alphaedit_plugin.models.batching import in_token_budget
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import (
    StopForward,
    hidden_of,
    hooked,
    inference,
    per_token,
    with_hidden,
)
from alphaedit_plugin.models.prefix_cache import Tail, can_resume, run
from alphaedit_plugin.models.tokens import Sentence, collate

CACHED_BUDGETS = 4  # of cached tokens; takes no more memory than a micro-batch does


class Part(Enum):
    """Where in a layer a vector is read."""

    KEY = "input of the down-projection"
    VALUE = "output of the down-projection"
    BLOCK = "output of the block"


@dataclass(frozen=True)
class Site:
    """A layer and a part of it."""

    layer: int
    part: Part

    def module(self, lm: EditableModel) -> nn.Module:
        """The module whose input or output is read."""
        return lm.block(self.layer) if self.part is Part.BLOCK else lm.down_proj(self.layer)


def read(
    lm: EditableModel, sites: Sequence[Site], sentences: Sequence[Sentence], budget: int = 8192
) -> dict[Site, Tensor]:
    """Read once; see `Reader.read`."""
    return Reader(lm, sentences, budget).read(sites)


class Reader:
    """Reads the same sentences repeatedly, while layers are written from below.

    A write changes nothing below its layer, and by causality nothing after the fact token changes
    it. So a sentence ends with its fact token, and a read starts at the last block that `read_key`
    read. The input of that block is cached, ``(length, d_model)`` per sentence, for
    `CACHED_BUDGETS` times ``budget`` tokens at most; other sentences start from the embedding.

    Args:
        lm: the model; it must not change below that block.
        sentences: what to run.
        budget: padded tokens per micro-batch.
    """

    def __init__(
        self, lm: EditableModel, sentences: Sequence[Sentence], budget: int = 8192
    ) -> None:
        self._lm, self._budget = lm, budget
        self._sentences = [sentence.until_fact() for sentence in sentences]
        totals = accumulate(len(s.ids) for s in self._sentences)
        room = CACHED_BUDGETS * budget if can_resume(lm) else 0
        self._cacheable = sum(total <= room for total in totals)
        self._layer = 0
        self._entering: dict[int, Tensor] = {}
        self._form: Any = None

    def read(self, sites: Sequence[Site], every: int = 1) -> dict[Site, Tensor]:
        """The vectors at the fact tokens, in the model as it is now.

        Args:
            sites: where to read; the forward pass ends after the deepest one.
            every: read only sentences whose index is a multiple of this.

        Returns:
            For each site ``(d, n)`` float32, one column per sentence.

        Raises:
            OutOfMemory: see `in_token_budget`.
        """
        return self._run(sites, every, None)

    def read_key(self, layer: int) -> Tensor:
        """``(d_in, n)`` float32, the keys of ``layer``; caches the input of its block.

        ``layer`` must not be below that of an earlier call.
        """
        site = Site(layer, Part.KEY)
        keys = self._run([site], 1, layer)[site]
        self._layer = layer
        return keys

    def _run(self, sites: Sequence[Site], every: int, remember: int | None) -> dict[Site, Tensor]:
        rows = range(0, len(self._sentences), every)
        columns: dict[Site, dict[int, Tensor]] = {site: {} for site in sites}

        def work(part: list[int], indices: list[int]) -> None:
            chosen = [part[index] for index in indices]
            read_off, entering = _run_tail(self._lm, sites, self._tail(chosen), remember)
            for site, vectors in read_off.items():
                columns[site].update(zip(chosen, vectors, strict=True))
            if entering is not None:
                self._cache(chosen, entering)

        with torch.no_grad(), inference(self._lm.model):
            for part in (
                [row for row in rows if row < self._cacheable],
                [row for row in rows if row >= self._cacheable],
            ):
                lengths = [len(self._sentences[row].ids) for row in part]
                in_token_budget(self._lm, lengths, self._budget, partial(work, part))
        return {
            site: torch.stack([vectors[row] for row in rows], dim=1)
            for site, vectors in columns.items()
        }

    def _tail(self, rows: Sequence[int]) -> Tail:
        """What has to run for these sentences, all of which are cached, or none."""
        batch = collate(self._lm, [self._sentences[row] for row in rows])
        if rows[0] not in self._entering:
            return Tail(0, batch.positions, batch.inputs(), None, None)
        hidden = pad_sequence([self._entering[row] for row in rows], batch_first=True)
        below = with_hidden(self._form, hidden)
        return Tail(self._layer, batch.positions, batch.inputs(), None, below)

    def _cache(self, rows: Sequence[int], entering: Any) -> None:
        hidden = hidden_of(entering)
        self._form = with_hidden(entering, hidden[:0])
        # All at once: if memory runs out here, the rows are read again from the same block.
        self._entering |= {
            row: states[: len(self._sentences[row].ids)].clone()
            for row, states in zip(rows, hidden, strict=True)
            if row < self._cacheable
        }


def _run_tail(
    lm: EditableModel, sites: Sequence[Site], tail: Tail, remember: int | None
) -> tuple[dict[Site, Tensor], Any]:
    """One forward pass, up to the last site.

    Returns:
        For each site ``(n, d)``; and the output of the block below ``remember``, if any.
    """
    vectors: dict[Site, Tensor] = {}
    entering: list[Any] = []

    def keep(site: Site, hidden: Tensor) -> None:
        rows = torch.arange(len(tail.column), device=hidden.device)
        hidden = per_token(hidden, tail.inputs["input_ids"])
        vectors[site] = hidden[rows, tail.column.to(hidden.device)].float()
        if len(vectors) == len(sites):
            raise StopForward

    def register(site: Site) -> Any:
        module = site.module(lm)
        if site.part is Part.KEY:
            return module.register_forward_pre_hook(lambda _, args: keep(site, args[0]))
        return module.register_forward_hook(lambda _, args, out: keep(site, hidden_of(out)))

    def watch() -> Any:
        block = lm.block((remember or 0) - 1)
        return block.register_forward_hook(lambda _, args, out: entering.append(out))

    hooks = [partial(register, site) for site in sites]
    with hooked(*hooks, *([watch] if remember else [])), suppress(StopForward):
        run(lm, tail)
    return vectors, entering[0] if entering else None


def average(columns: Tensor, weights: Tensor) -> Tensor:
    """Average keys ``(d, n · c)`` over the ``c`` contexts of each request: ``(d, n)``.

    ``weights (c,)`` sum to 1.
    """
    grouped = columns.unflatten(1, (-1, len(weights)))
    return grouped @ weights.to(columns)
