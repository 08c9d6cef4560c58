"""After many edits the engine still writes what the published closed form says."""

from __future__ import annotations

import torch

from benchmarks.growth import closed_form, grow
from benchmarks.runs import dense_matrices
from benchmarks.workload import Workload
from tests.tiny import assert_same_weights, weights_of


def test_growth_agrees_and_puts_back(load: Workload) -> None:
    before = weights_of(load.view)
    dense = dense_matrices(load, load.tasks["alphaedit"])
    short, long = (grow(load, dense, load.requests, history) for history in (0, 150))
    assert max(short.apart, long.apart) < 1e-3
    assert long.ours_held > short.ours_held
    assert long.plain_held == short.plain_held
    assert_same_weights(load.view, before)


def test_the_closed_form_alone_agrees() -> None:
    found = closed_form(128, 10, 30, torch.device("cpu"), 0)
    assert found.apart < 1e-3
    assert found.held[1] < found.held[0]
