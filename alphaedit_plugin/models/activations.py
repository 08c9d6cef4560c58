"""Keys and values at the fact token, batched: one forward pass reads every site."""

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

KEPT = 4  # per token, an MLP's inner width: no more than a micro-batch takes anyway


class Part(Enum):
    """Where in a layer a vector is read."""

    KEY = "input of the down-projection"
    VALUE = "output of the down-projection"
    BLOCK = "output of the block"


@dataclass(frozen=True)
class Site:
    """A place to read: a layer and a part of it."""

    layer: int
    part: Part

    def module(self, lm: EditableModel) -> nn.Module:
        """The module whose input or output this site is."""
        return lm.block(self.layer) if self.part is Part.BLOCK else lm.down_proj(self.layer)


def read(
    lm: EditableModel, sites: Sequence[Site], sentences: Sequence[Sentence], budget: int = 8192
) -> dict[Site, Tensor]:
    """Read the vectors at every sentence's fact token, once; see `Reader.read`."""
    return Reader(lm, sentences, budget).read(sites)


class Reader:
    """Reads the same sentences again and again, while layers are written from below.

    A write changes nothing below its layer, and by causality nothing behind the fact token changes
    what is there: so a sentence ends with its fact token, and a read starts at the block that was
    remembered last. What enters that block is kept, ``(length, d_model)`` per sentence, for
    `KEPT` times ``budget`` tokens at most; further sentences start from the embedding each time.

    Args:
        lm: the model; below the block remembered last it must stay as it is.
        sentences: what to run.
        budget: padded tokens per micro-batch.
    """

    def __init__(
        self, lm: EditableModel, sentences: Sequence[Sentence], budget: int = 8192
    ) -> None:
        self._view, self._budget = lm, budget
        self._sentences = [sentence.until_fact() for sentence in sentences]
        totals = accumulate(len(s.ids) for s in self._sentences)
        room = KEPT * budget if can_resume(lm) else 0
        self._keepable = sum(total <= room for total in totals)
        self._layer = 0
        self._entering: dict[int, Tensor] = {}
        self._form: Any = None

    def read(self, sites: Sequence[Site], every: int = 1) -> dict[Site, Tensor]:
        """The vectors at the fact tokens, in the model as it is now.

        Args:
            sites: where to read; the forward pass ends after the deepest one.
            every: read only each sentence whose number divides by this.

        Returns:
            For each site ``(d, n)`` float32, one column per sentence, in the given order.

        Raises:
            OutOfMemory: see `in_token_budget`.
        """
        return self._run(sites, every, None)

    def read_key(self, layer: int) -> Tensor:
        """``(d_in, n)`` float32, the keys of ``layer``; remembers what enters its block.

        ``layer`` is not below that of an earlier call.
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
            found, entering = _run_tail(self._view, sites, self._tail(chosen), remember)
            for site, vectors in found.items():
                columns[site].update(zip(chosen, vectors, strict=True))
            if entering is not None:
                self._keep(chosen, entering)

        with torch.no_grad(), inference(self._view.model):
            for part in (
                [row for row in rows if row < self._keepable],
                [row for row in rows if row >= self._keepable],
            ):
                lengths = [len(self._sentences[row].ids) for row in part]
                in_token_budget(self._view, lengths, self._budget, partial(work, part))
        return {
            site: torch.stack([vectors[row] for row in rows], dim=1)
            for site, vectors in columns.items()
        }

    def _tail(self, rows: Sequence[int]) -> Tail:
        """What is left to run of these sentences, all of which are kept, or none."""
        batch = collate(self._view, [self._sentences[row] for row in rows])
        if rows[0] not in self._entering:
            return Tail(0, batch.positions, batch.inputs(), None, None)
        hidden = pad_sequence([self._entering[row] for row in rows], batch_first=True)
        below = with_hidden(self._form, hidden)
        return Tail(self._layer, batch.positions, batch.inputs(), None, below)

    def _keep(self, rows: Sequence[int], entering: Any) -> None:
        hidden = hidden_of(entering)
        self._form = with_hidden(entering, hidden[:0])
        # All or none: rows for which memory runs out here are read again from where they were.
        self._entering |= {
            row: states[: len(self._sentences[row].ids)].clone()
            for row, states in zip(rows, hidden, strict=True)
            if row < self._keepable
        }


def _run_tail(
    lm: EditableModel, sites: Sequence[Site], tail: Tail, remember: int | None
) -> tuple[dict[Site, Tensor], Any]:
    """One forward pass, which stops when all has been seen.

    Returns:
        For each site ``(n, d)``; and the output of the block below ``remember``, where there is
        one.
    """
    found: dict[Site, Tensor] = {}
    entering: list[Any] = []

    def keep(site: Site, hidden: Tensor) -> None:
        rows = torch.arange(len(tail.column), device=hidden.device)
        hidden = per_token(hidden, tail.inputs["input_ids"])
        found[site] = hidden[rows, tail.column.to(hidden.device)].float()
        if len(found) == len(sites):
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
    return found, entering[0] if entering else None


def average(columns: Tensor, weights: Tensor) -> Tensor:
    """Average keys over context templates.

    Args:
        columns: ``(d, n · c)``, the ``c`` contexts of a request side by side.
        weights: ``(c,)``, summing to 1.

    Returns:
        ``(d, n)``.
    """
    grouped = columns.unflatten(1, (-1, len(weights)))
    return grouped @ weights.to(columns)
