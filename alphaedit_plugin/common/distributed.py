"""Several processes at one task, as ``torchrun`` and ``accelerate launch`` start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from alphaedit_plugin.common.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """The processes that work together; by default this one alone.

    Attributes:
        rank: the number of this process.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that reports and writes results."""
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> Tensor:
        """``tensor`` summed over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values


@contextmanager
def group_from_environment() -> Iterator[Group]:
    """Join the processes that were launched together, if any; leave them on exit.

    Raises:
        ConfigError: the environment is that of a launcher, but incomplete.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Group()
        return
    world = _join()
    try:
        yield Group(distributed.get_rank(), world)
    finally:
        distributed.destroy_process_group()


def _join() -> int:
    """Start talking to the others; returns how many they are."""
    backend = "gloo"
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            backend = "cpu:gloo,cuda:nccl"  # sums may lie on either
        distributed.init_process_group(backend)
    except (ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} speaks of several processes, but they cannot "
            f"be joined ({first}): start them with torchrun, or unset it"
        ) from None
    return distributed.get_world_size()
