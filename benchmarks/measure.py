"""Clocks and memory."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PHASES = ("targets", "keys", "solve", "write")
INTERVAL = 0.002  # seconds between two looks at the resident memory


@dataclass(frozen=True)
class Seconds:
    """Seconds by phase of an edit."""

    targets: float = 0.0
    keys: float = 0.0
    solve: float = 0.0
    write: float = 0.0

    @property
    def total(self) -> float:
        """Of all phases."""
        return sum(asdict(self).values())

    def over(self, count: float) -> Seconds:
        """Each phase divided by ``count``."""
        return Seconds(**{name: value / count for name, value in asdict(self).items()})


class Stopwatch:
    """Adds up seconds by phase; inside another phase, only the inner one runs.

    Args:
        device: whose queued work is waited for before the clock is read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums = dict.fromkeys(PHASES, 0.0)
        self._running: list[str] = []
        self._since = 0.0

    @property
    def seconds(self) -> Seconds:
        """What has been added up so far."""
        return Seconds(**self._sums)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside for phase ``name``, one of `PHASES`."""
        self._book()
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def _book(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._running:
            self._sums[self._running[-1]] += now - self._since
        self._since = now


@dataclass
class Peak:
    """The most memory in use inside a block, beyond what was in use at its start.

    Attributes:
        bytes: ``None`` where the system does not tell.
    """

    bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Watch the GPU's allocator, or this process' resident memory, until the block ends.

    Resident memory misses what fits into free pages that the process holds on to; where the C
    library can give them back, it does so first.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - start
        return
    _return_free_pages()
    first = _resident()
    if first is None:
        yield peak
        return
    watcher = _Watcher(first)
    watcher.start()
    try:
        yield peak
    finally:
        peak.bytes = watcher.stop() - first


class _Watcher(threading.Thread):
    """Looks at the resident memory every `INTERVAL`."""

    def __init__(self, first: int) -> None:
        super().__init__(daemon=True)
        self._most = first
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(INTERVAL):
            self._most = max(self._most, _resident() or 0)

    def stop(self) -> int:
        self._end.set()
        self.join()
        return max(self._most, _resident() or 0)


def _return_free_pages() -> None:
    """Have glibc give free pages back to the system; other C libraries have no such call."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int | None:
    """Resident bytes of this process; ``None`` where there is no ``/proc``."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass
class _Held:
    seen: set[int] = field(default_factory=set)
    storages: dict[int, int] = field(default_factory=dict)

    def visit(self, thing: Any) -> None:
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            self.storages[storage.data_ptr()] = storage.nbytes()
            return
        if id(thing) in self.seen or isinstance(thing, (str, bytes, int, float, torch.nn.Module)):
            return
        self.seen.add(id(thing))
        if isinstance(thing, dict):
            self._all(thing.values())
        elif isinstance(thing, (list, tuple, set)):
            self._all(thing)
        elif hasattr(thing, "__dict__"):
            self._all(vars(thing).values())

    def _all(self, things: Any) -> None:
        for thing in things:
            self.visit(thing)


def held_bytes(*things: Any) -> int:
    """Bytes of all tensors that ``things`` hold on to, each storage once; modules left out."""
    held = _Held()
    for thing in things:
        held.visit(thing)
    return sum(held.storages.values())
