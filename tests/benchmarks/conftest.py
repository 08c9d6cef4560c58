"""A tiny model and all that its edits need."""

from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.nullspace.projector import Projector
from benchmarks.models import SHAPES, build
from benchmarks.workload import Words, Workload, build_tasks, collect, null_cut

SEED, STEPS, EDITS = 0, 5, 3


@pytest.fixture(scope="module")
def load() -> Workload:
    shape = SHAPES["tiny"]
    lm = build(shape, torch.float32, torch.device("cpu"), SEED)
    moments = collect(lm, shape.layers, 1000, SEED)
    cut = null_cut(lm.weight(0).shape[1])
    projectors = {layer: Projector.fit(moments[layer], cut) for layer in shape.layers}
    tasks = build_tasks(lm, shape, STEPS, SEED)
    return Workload(lm, tasks, Words(lm, SEED).requests(EDITS), moments, projectors)
