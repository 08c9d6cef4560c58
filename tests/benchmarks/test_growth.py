"""After many edits the engine still writes what the published closed form says."""

from __future__ import annotations

import torch

from benchmarks.growth import grow, wide
from benchmarks.runs import dense_matrices
from benchmarks.workload import Workload
from tests.tiny import assert_same_weights, weights_of


def test_growth_agrees_and_puts_back(load: Workload) -> None:
    before = weights_of(load.lm)
    dense = dense_matrices(load, load.tasks["alphaedit"])
    short, long = (grow("tiny", load, dense, load.requests, history) for history in (0, 150))
    assert max(short.apart, long.apart) < 1e-3
    assert long.held[1] > short.held[1]
    assert long.held[0] == short.held[0]
    assert_same_weights(load.lm, before)


def test_a_wide_block_agrees_and_keeps_less() -> None:
    load = wide(64, 11, torch.device("cpu"), 0)
    dense = dense_matrices(load, load.tasks["alphaedit"])
    found = grow("wide", load, dense, load.requests, 30)
    assert (found.d_in, found.batch) == (256, 10)
    assert found.apart < 1e-3
    assert found.held[1] < found.held[0]
