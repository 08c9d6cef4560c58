"""Groups of processes: one alone, and two that start each other's work."""

from __future__ import annotations

import multiprocessing
import os
import socket
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.distributed import Group, group_from_environment
from alphaedit_plugin.common.errors import ConfigError


def test_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with group_from_environment() as group:
        assert group == Group()
        assert group.leads
        assert group.gather("x") == ["x"]
        assert group.add_up(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize("world", ["2", "many", "0"])
def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch, world: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    message = f"WORLD_SIZE={world}, but .* start the processes with torchrun"
    with pytest.raises(ConfigError, match=message), group_from_environment():
        pass
    assert not torch.distributed.is_initialized()


def member(rank: int, port: int, queue: Any) -> None:
    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    with group_from_environment() as group:
        total = group.add_up(torch.full((2,), rank + 1.0, dtype=torch.float64))
        queue.put((rank, group.rank, group.leads, group.gather(rank), total.tolist()))


def test_two_add_up() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    members = [context.Process(target=member, args=(rank, port, queue)) for rank in (0, 1)]
    for process in members:
        process.start()
    seen = sorted(queue.get(timeout=60) for _ in members)
    for process in members:
        process.join()
    assert seen == [(0, 0, True, [0, 1], [3, 3]), (1, 1, False, [0, 1], [3, 3])]
