"""Running only the part of a model that a target search changes.

A target search changes one vector: the fact token's, in one block. Nothing below that block and,
by causality, nothing before that token depends on it. So the tokens before it run once and leave
their keys and values in the model's cache, the blocks below run once, and only the rest, the
`Tail`, runs at every step.

Support is tested once per model, see `can_resume`. The tokens before are padded on the left, so
that the rest follows immediately, however the model counts distances: by position ids, by columns
of the mask (alibi, sliding windows), or by the cache's length.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import (
    StopForward,
    head_only_at,
    hidden_of,
    hooked,
    inference,
    per_token,
    with_hidden,
)
from alphaedit_plugin.models.tokens import Batch, Sentence, collate

logger = logging.getLogger(__name__)

CACHES = ("cache", "past_key_values")  # its argument in transformers, and before 5.24


@dataclass(frozen=True)
class Tail:
    """What runs repeatedly: ``n`` sentences, from the fact token on if the model supports it.

    Attributes:
        layer: the first block that runs.
        column: ``(n,)``, the column of each sentence's fact token in the tail.
        inputs: arguments ``(n, length)`` of the model's forward pass: ids, mask and positions.
        past: the model's cache of the tokens before; ``None`` if there are none.
        below: the output of the last skipped block; ``None`` if none is skipped.
    """

    layer: int
    column: Tensor
    inputs: dict[str, Tensor]
    past: Any
    below: Any

    def select(self, rows: Tensor) -> Tail:
        """The tail of the sentences ``rows (m,)``."""
        past = _copy(self.past)
        if past is not None:
            past.batch_select_indices(rows)
        below = self.below
        if below is not None:
            hidden = hidden_of(below)
            below = with_hidden(below, hidden[rows.to(hidden.device)])
        inputs = {name: value[rows] for name, value in self.inputs.items()}
        return Tail(self.layer, self.column[rows], inputs, past, below)


def begin(lm: EditableModel, sentences: Sequence[Sentence], layer: int) -> Tail:
    """Run everything that an edit of the fact tokens at ``layer`` cannot change."""
    if not can_resume(lm):
        batch = collate(lm, sentences)
        return Tail(0, batch.positions, batch.inputs(), None, None)
    return _begin(lm, sentences, layer)


def _begin(lm: EditableModel, sentences: Sequence[Sentence], layer: int) -> Tail:
    cuts = [s.position for s in sentences]
    after = [Sentence(s.ids[cut:], 0) for s, cut in zip(sentences, cuts, strict=True)]
    batch = collate(lm, after)
    starts = torch.tensor(cuts, device=lm.device)
    if max(cuts) == 0:
        inputs = batch.inputs()
        return Tail(layer, batch.positions, inputs, None, _run_below(lm, layer, inputs, None))
    # A sentence that starts with its fact token has no token before it: one is run, but masked.
    before = padded_left(
        collate(lm, [Sentence(s.ids[: max(n, 1)], 0) for s, n in zip(sentences, cuts, strict=True)])
    )
    nowhere = torch.zeros(0, dtype=torch.long, device=lm.device)
    with torch.no_grad(), head_only_at(lm.model, nowhere, nowhere):
        output = lm.model(
            **before.inputs(), **position_ids(lm, before.attention_mask), use_cache=True
        )
    visible = before.attention_mask * (starts[:, None] > 0)
    mask = torch.cat([visible, batch.attention_mask], dim=1)
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": mask,
        **position_ids(lm, mask, batch.input_ids.shape[1]),
    }
    past = getattr(output, cache_name(lm))
    below = _run_below(lm, layer, inputs, past)
    return Tail(layer, torch.zeros_like(starts), inputs, past, below)


def run(lm: EditableModel, tail: Tail) -> Any:
    """The model's output for the tail's columns.

    Hooks on block ``tail.layer - 1`` still run and may change its saved output.
    """
    with _skipping(lm, tail):
        return lm.model(**tail.inputs, **_cache_arguments(lm, tail.past))


@contextmanager
def adding(module: nn.Module, tail: Tail, offsets: Tensor) -> Iterator[None]:
    """Add ``offsets (n, d)`` to the output of ``module`` at the fact token of each sentence."""

    def add(_: Any, args: Any, output: Any) -> Any:
        whole = hidden_of(output)
        hidden = per_token(whole, tail.inputs["input_ids"])
        everyone = torch.arange(len(offsets), device=hidden.device)
        index = (everyone, tail.column.to(hidden.device))
        moved = hidden.index_put(index, offsets.to(hidden), accumulate=True)
        return with_hidden(output, moved.reshape(whole.shape))

    with hooked(lambda: module.register_forward_hook(add)):
        yield


def _run_below(lm: EditableModel, layer: int, inputs: dict[str, Tensor], past: Any) -> Any:
    """The output of block ``layer - 1``; ``None`` for layer 0."""
    outputs: list[Any] = []

    def stop(_: Any, args: Any, output: Any) -> None:
        outputs.append(output)
        raise StopForward

    if layer == 0:
        return None
    last = lm.block(layer - 1)
    with torch.no_grad(), hooked(lambda: last.register_forward_hook(stop)), suppress(StopForward):
        lm.model(**inputs, **_cache_arguments(lm, past))
    return outputs[0]


@contextmanager
def _skipping(lm: EditableModel, tail: Tail) -> Iterator[None]:
    """Let the blocks below return the saved output of the last of them without running."""
    skipped = [lm.block(i) for i in range(tail.layer)]
    saved = [block.__dict__.get("forward") for block in skipped]
    try:
        for block in skipped:
            block.forward = lambda *args, **kwargs: tail.below
        yield
    finally:
        for block, forward in zip(skipped, saved, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def can_resume(lm: EditableModel) -> bool:
    """Whether a `Tail` gives the same as a whole forward pass; tested once per ``lm``."""
    if "prefix cache" not in lm.findings:
        with torch.no_grad(), inference(lm.model):
            lm.findings["prefix cache"] = _test(lm)
    return lm.findings["prefix cache"]


def _test(lm: EditableModel) -> bool:
    """Run three sentences that are cut at different positions, whole and as a `Tail`."""
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    ids = tuple(vocabulary * part // 11 for part in range(2, 10))
    sentences = [Sentence(ids, 6), Sentence(ids[3:7], 1), Sentence(ids[5:], 0)]
    batch = collate(lm, sentences)
    whole = lm.model(**batch.inputs(), use_cache=False).logits
    order = [2, 0]
    try:
        tail = _begin(lm, sentences, min(1, lm.depth - 1))
        some = run(lm, tail.select(torch.tensor(order, device=lm.device))).logits
        every = run(lm, tail).logits  # fails if ``some`` changed the cache
    except Exception as error:  # models without such a cache raise anything
        logger.warning(
            "this model cannot continue from its cache (%s: %s): a target search runs whole "
            "sentences, which takes longer", type(error).__name__, error,
        )  # fmt: skip
        return False
    return all(
        _agree(whole[row, sentences[row].position : len(sentences[row].ids)], logits)
        for row, logits in [*zip(order, some, strict=True), *enumerate(every)]
    )


def _agree(expected: Tensor, logits: Tensor) -> bool:
    """Whether the first ``logits (length, vocabulary)`` are as expected, up to rounding."""
    difference = logits[: len(expected)].float() - expected.float()
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    return bool(difference.norm() <= tolerance * expected.float().norm())


def padded_left(batch: Batch) -> Batch:
    """The same sentences, padded on the left."""
    width = batch.input_ids.shape[1]
    padding = width - batch.attention_mask.sum(1, keepdim=True)
    source = (torch.arange(width, device=padding.device) - padding) % width
    return Batch(
        batch.input_ids.gather(1, source),
        batch.attention_mask.gather(1, source),
        batch.positions + padding[:, 0],
    )


def position_ids(lm: EditableModel, mask: Tensor, width: int | None = None) -> dict[str, Tensor]:
    """Position ids of the last ``width`` columns of ``mask (n, length)``, if the model takes them.

    Padding has the position of a real token; any other may be outside the model's range.
    """
    if "position_ids" not in _accepted(lm):
        return {}
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return {"position_ids": positions if width is None else positions[:, -width:]}


def _accepted(lm: EditableModel) -> Collection[str]:
    """The arguments of the model's forward pass."""
    return inspect.signature(lm.model.forward).parameters.keys()


def cache_name(lm: EditableModel) -> str:
    """The name of the cache in the model's forward pass and in its output."""
    return next((name for name in CACHES if name in _accepted(lm)), CACHES[-1])


def _cache_arguments(lm: EditableModel, past: Any) -> dict[str, Any]:
    """A forward pass appends to its cache, so it gets a copy."""
    return {cache_name(lm): _copy(past), "use_cache": past is not None}


def _copy(past: Any) -> Any:
    """A shallow copy that can append and select independently; ``None`` of ``None``."""
    copied = copy.copy(past)
    for name, value in vars(past).items() if past is not None else ():
        if isinstance(value, list):
            setattr(copied, name, [copy.copy(item) for item in value])
    return copied
