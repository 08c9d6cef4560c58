"""Clocks that do not count twice, and memory that is counted once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks.measure import Stopwatch, held_bytes, peak_memory

CPU = torch.device("cpu")


def test_an_inner_phase_stops_the_outer_one() -> None:
    watch = Stopwatch(CPU)
    with watch.phase("keys"):
        with watch.phase("solve"):
            time.sleep(0.05)
        time.sleep(0.01)
    assert watch.seconds.solve >= 0.05
    assert 0.01 <= watch.seconds.keys < 0.05
    assert watch.seconds.total == watch.seconds.solve + watch.seconds.keys


def test_a_phase_that_fails_is_closed() -> None:
    watch = Stopwatch(CPU)
    with pytest.raises(ValueError, match="stop"), watch.phase("keys"):
        raise ValueError("stop")
    with watch.phase("solve"):
        time.sleep(0.01)
    assert watch.seconds.keys < 0.01


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_peak_memory_sees_what_is_gone_again() -> None:
    size = 64 * 2**20
    with peak_memory(CPU) as peak:
        block = torch.ones(size // 4)
        del block
    assert peak.bytes is not None
    assert peak.bytes > size / 2


def test_a_storage_is_counted_once_and_modules_are_not() -> None:
    tensor = torch.zeros(10)
    things = {"a": [tensor, tensor.view(2, 5)], "b": torch.nn.Linear(5, 5)}
    assert held_bytes(things, tensor) == 40
