"""Uncentred second moments ``C = E[k kᵀ]`` of keys over a corpus."""

from __future__ import annotations

from alphaedit_plugin.statistics.checkpoint import Checkpoint, Position
from alphaedit_plugin.statistics.collect import (
    Halves,
    Watch,
    collect_second_moments,
    memory_needed,
)
from alphaedit_plugin.statistics.host import HostMoments, read_host_moment, write_host_moment
from alphaedit_plugin.statistics.moment import SecondMoment

__all__ = [
    "Checkpoint",
    "Halves",
    "HostMoments",
    "Position",
    "SecondMoment",
    "Watch",
    "collect_second_moments",
    "memory_needed",
    "read_host_moment",
    "write_host_moment",
]
