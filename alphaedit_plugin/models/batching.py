"""Micro-batches that fit into memory, and shrink when it runs out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

import torch

from alphaedit_plugin.common.errors import OutOfMemory, is_out_of_memory
from alphaedit_plugin.models.editable import EditableModel

logger = logging.getLogger(__name__)

MEMORY_PER_ACTIVATION = 4  # bytes of device memory for each byte of activations
# A pass costs as much as this many of its tokens before it has computed on any: it reads every
# weight, and starts every operation.
PASS_TOKENS: Mapping[str, int] = MappingProxyType({"cpu": 32, "accelerator": 512})
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def in_token_budget(
    lm: EditableModel,
    lengths: Sequence[int],
    budget: int,
    work: Callable[[list[int]], None],
    token_bytes: float | None = None,
    name: str | None = None,
) -> None:
    """Do ``work`` in `micro_batches`; when memory runs out, halve them and continue.

    Args:
        lm: the model that runs.
        lengths: token count of each item.
        budget: see `micro_batches`.
        work: takes the indices of one micro-batch. After running out of memory it is called
            again with parts of the batch, so it must store its results last.
        token_bytes: see `micro_batches`.
        name: logs, under this name, how the work is split.

    Raises:
        OutOfMemory: one item alone does not fit.
    """
    needed = activation_bytes(lm) if token_bytes is None else token_bytes
    waiting = micro_batches(lm, lengths, budget, needed)
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
                f"out of memory with one item of {size} tokens: set model.dtype=bfloat16, use "
                "fewer or shorter model.contexts.templates, or a device with more memory"
            )
        half = max(1, size // 2)
        logger.warning("out of memory with %d tokens at once: going on with %d", size, half)
        undone = [*batch, *(index for later in waiting for index in later)]
        parts = _split([lengths[index] for index in undone], half)
        waiting = [[undone[index] for index in part] for part in parts]


def micro_batches(
    lm: EditableModel, lengths: Sequence[int], budget: int, token_bytes: float | None = None
) -> list[list[int]]:
    """Group indices of items by similar length, the longest first.

    Args:
        lm: the model that runs.
        lengths: token count of each item.
        budget: padded tokens per batch, ``rows × longest row``; fewer where `activation_room` is
            smaller. One item alone may exceed it.
        token_bytes: memory per padded token; by default that of a pass without gradients.
    """
    room = activation_room(lm)
    if room is not None:
        needed = activation_bytes(lm) if token_bytes is None else token_bytes
        budget = max(1, min(budget, int(room / needed)))
    return _split(lengths, budget)


def _split(lengths: Sequence[int], budget: int) -> list[list[int]]:
    # Longest first: if memory runs out, it does so at once.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def alike(lm: EditableModel, lengths: Sequence[int]) -> list[list[int]]:
    """Group indices of sentences of similar length: padding costs less than one more pass would.

    Args:
        lm: the model that runs.
        lengths: token count of each sentence.
    """
    worth = PASS_TOKENS["cpu" if lm.device.type == "cpu" else "accelerator"]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    padding = 0
    for length, same in groupby(order, key=lambda i: lengths[i]):
        indices = list(same)
        if groups:
            padding += len(indices) * (lengths[groups[-1][0]] - length)
        if not groups or padding > worth:
            groups.append([])
            padding = 0
        groups[-1] += indices
    return groups


def _fits(work: Callable[[list[int]], None], batch: list[int]) -> bool:
    """Whether memory was enough; what a failed attempt allocated is free again on return."""
    try:
        work(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Not in the handler, where the traceback still references the attempt's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def activation_bytes(
    lm: EditableModel, blocks: int = 1, length: int = 0, logits: float = 0.0
) -> float:
    """Estimated bytes of one token's activations.

    A block takes about ten hidden states and five times the MLP's inner width, including the
    workspace of its gradients, and attention at most two rows of weights per head. A row of logits
    is there five times, in float32. (Fitted to SmolLM2-135M.)

    Args:
        lm: the model.
        blocks: how many blocks' activations are in memory at once: all that gradients pass
            through, otherwise one.
        length: tokens per sentence.
        logits: rows of logits per token.
    """
    d_in, heads = lm.key_size(0), getattr(lm.config, "num_attention_heads", 1)
    d_model = lm.parameter(0).numel() // d_in
    block = 10 * d_model + 5 * d_in + 2 * heads * length
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    return blocks * block * lm.parameter(0).dtype.itemsize + 20 * logits * vocabulary


def activation_room(lm: EditableModel) -> int | None:
    """Bytes for activations: a share of the memory that the model leaves, as a power of two.

    It depends on total memory, not on what is free now, so that the same machine always makes the
    same batches: rounding depends on them. ``None`` if total memory is unknown.
    """
    total = _memory_of(lm.device)
    if total is None:
        return None
    model = sum(p.numel() * p.element_size() for p in lm.model.parameters() if not p.is_meta)
    return 1 << max((total - model) // MEMORY_PER_ACTIVATION, 2**20).bit_length() - 1


def _memory_of(device: torch.device) -> int | None:
    """Total bytes of the device, or of what this process may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or no limit ("max")
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)
