"""Processes that work on one task, as ``torchrun`` and ``accelerate launch`` start them.

accelerate has the same in its ``PartialState``, but it is only an extra of this package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from alphaedit_plugin.common.errors import ConfigError, first_line


@dataclass(frozen=True)
class Group:
    """The processes that work together; by default this one alone.

    Attributes:
        rank: number of this process.
        world: number of processes.
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
        ConfigError: there should be several, but they cannot be joined.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Group()
        return
    backend = "gloo"
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            backend = "cpu:gloo,cuda:nccl"  # sums may lie on either
        distributed.init_process_group(backend)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but torch.distributed could not be "
            f"initialised ({first_line(error)}): start the processes with torchrun, or unset it"
        ) from None
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
