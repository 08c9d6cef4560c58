"""Work in micro-batches that fit into memory, and shrink where it runs out all the same."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from alphaedit_plugin.common.errors import OutOfMemory, is_out_of_memory
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import by_token_budget

logger = logging.getLogger(__name__)

Work = Callable[[list[int]], None]

SHARE = 4  # of a device's memory, one in so many bytes is for activations
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def in_token_budget(
    lm: EditableModel,
    lengths: Sequence[int],
    most: int,
    work: Work,
    token_bytes: float | None = None,
    name: str | None = None,
) -> None:
    """Do ``work`` on micro-batches; where memory runs out, go on with batches of half the size.

    Args:
        lm: the model that runs.
        lengths: token count of each item.
        most: padded tokens of a micro-batch, where no fewer fit into `activation_room`.
        work: is given the indices of one micro-batch. A batch that ran out of memory is given
            again in parts, so it has to keep its results only once it has them all.
        token_bytes: what a padded token takes; by default what it takes without gradients.
        name: of the work, to log how it is cut.

    Raises:
        OutOfMemory: one item alone does not fit.
    """
    needed = activation_bytes(lm) if token_bytes is None else token_bytes
    waiting = by_token_budget(lengths, fitting(lm, most, needed))
    if name is not None and waiting:
        tokens = max(len(batch) * max(lengths[i] for i in batch) for batch in waiting)
        logger.info(
            "%s: %d items in %d parts of at most %d tokens, about %.2g GB",
            name, len(lengths), len(waiting), tokens, tokens * needed / 1e9,
        )  # fmt: skip
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


def fitting(lm: EditableModel, most: int, token_bytes: float | None = None) -> int:
    """How many padded tokens fit into `activation_room`, ``most`` at most.

    Args:
        lm: the model that runs.
        most: the bound.
        token_bytes: what a padded token takes; by default what it takes without gradients.
    """
    room = activation_room(lm)
    needed = activation_bytes(lm) if token_bytes is None else token_bytes
    return most if room is None else max(1, min(most, int(room / needed)))


def activation_bytes(
    lm: EditableModel, blocks: int = 1, length: int = 0, logits: float = 0.0
) -> float:
    """What one token's activations take, by the model's sizes.

    A block takes about ten hidden states and five times the MLP's inner width, its gradients'
    workspace included, and attention at most two rows of weights per head; a row of logits is
    there five times, in float32. (Fitted to what SmolLM2-135M takes.)

    Args:
        lm: the model.
        blocks: those whose activations are there at once: all that a gradient passes, else one.
        length: of the sentences, in tokens.
        logits: rows of logits per token.
    """
    d_in, heads = lm.key_size(0), getattr(lm.config, "num_attention_heads", 1)
    d_model = lm.parameter(0).numel() // d_in
    block = 10 * d_model + 5 * d_in + 2 * heads * length
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    return blocks * block * lm.parameter(0).dtype.itemsize + 20 * logits * vocabulary


def activation_room(lm: EditableModel) -> int | None:
    """Bytes for activations: `SHARE` of what a device has beside the model, as a power of two.

    Of all its memory, not of what is free now: runs on like machines are cut alike, and how a sum
    rounds depends on that. ``None`` where nobody says what there is.
    """
    total = _memory_of(lm.device)
    if total is None:
        return None
    model = sum(p.numel() * p.element_size() for p in lm.model.parameters() if not p.is_meta)
    return 1 << max((total - model) // SHARE, 2**20).bit_length() - 1


def _memory_of(device: torch.device) -> int | None:
    """Bytes that the device has, or that this process may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)
