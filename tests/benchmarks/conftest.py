"""A tiny model and all that its edits need."""

from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.nullspace import Projector
from benchmarks.models import SHAPES, build
from benchmarks.workload import Words, Workload, build_tasks, collect, null_cut

SEED, STEPS, EDITS = 0, 5, 3


@pytest.fixture(scope="module")
def load() -> Workload:
    shape = SHAPES["tiny"]
    view = build(shape, torch.float32, torch.device("cpu"), SEED)
    moments = collect(view, shape.layers, 1000, SEED)
    cut = null_cut(view.weight(0).shape[1])
    projectors = {layer: Projector.fit(moments[layer], cut) for layer in shape.layers}
    tasks = build_tasks(view, shape, STEPS, SEED)
    return Workload(view, tasks, Words(view, SEED).requests(EDITS), moments, projectors)
