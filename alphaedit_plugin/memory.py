"""Work in micro-batches that shrink where memory runs out, instead of an end to the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from alphaedit_plugin.errors import OutOfMemory, is_out_of_memory
from alphaedit_plugin.prompts import by_token_budget

logger = logging.getLogger(__name__)

Work = Callable[[list[int]], None]


def in_token_budget(lengths: Sequence[int], budget: int, work: Work) -> None:
    """Do ``work`` on micro-batches; where memory runs out, go on with batches of half the size.

    Args:
        lengths: token count of each item.
        budget: see `by_token_budget`.
        work: is given the indices of one micro-batch. A batch that ran out of memory is given
            again in parts, so it has to keep its results only once it has them all.

    Raises:
        OutOfMemory: one item alone does not fit.
    """
    waiting = by_token_budget(lengths, budget)
    while waiting:
        batch = waiting.pop(0)
        if _fits(work, batch):
            continue
        size = len(batch) * max(lengths[index] for index in batch)
        if len(batch) == 1:
            raise OutOfMemory(
                f"out of memory with one item of {size} tokens: set model.dtype=bfloat16, take "
                "fewer or shorter model.contexts.templates, or use a device with more memory"
            )
        logger.warning(
            "out of memory with %d tokens at once: going on with %d", size, max(1, size // 2)
        )
        left = [*batch, *(index for later in waiting for index in later)]
        parts = by_token_budget([lengths[index] for index in left], max(1, size // 2))
        waiting = [[left[index] for index in part] for part in parts]


def _fits(work: Work, batch: list[int]) -> bool:
    """Whether memory was enough; what the failed attempt held is free again on return."""
    try:
        work(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Only here, as inside the handler the traceback still holds the attempt's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
