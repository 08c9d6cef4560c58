"""The plain implementation and the engine find the same targets and write the same deltas."""

from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.data.request import Request
from benchmarks.published import null_projection
from benchmarks.runs import apart, check, closed_forms, dense_matrices, run_ours, run_plain
from benchmarks.workload import METHODS, Words, Workload
from tests.tiny import assert_same_weights, weights_of

EDITS = 3


@pytest.mark.parametrize("method", METHODS)
def test_both_sides_agree(load: Workload, method: str) -> None:
    task = load.tasks[method]
    dense, before = dense_matrices(load, task), weights_of(load.lm)
    row, ours, seen = run_ours(load, task, load.requests)
    _, plain = run_plain(load, dense, task, load.requests)
    found = check(load.lm, task, "plain, ours", EDITS, (ours, plain))
    assert found.holds
    assert found.targets is not None
    assert closed_forms(load, dense, task, seen)[1].holds
    assert all(seconds > 0 for seconds in vars(row.seconds).values())
    assert_same_weights(load.lm, before)


def test_targets_of_several_tokens_agree(load: Workload) -> None:
    task = load.tasks["memit"]
    request = load.requests[0]
    longer = Request.parse(request.prompt, request.subject, Words(load.lm, 3).text(3))
    ours = run_ours(load, task, [longer])[1]
    plain = run_plain(load, dense_matrices(load, task), task, [longer])[1]
    found = check(load.lm, task, "plain, ours", 1, (ours, plain))
    assert found.targets is not None
    assert found.holds


def test_a_wrong_delta_is_noticed(load: Workload) -> None:
    task = load.tasks["memit"]
    _, ours, seen = run_ours(load, task, load.requests)
    _, plain = run_plain(load, dense_matrices(load, task), task, load.requests)
    plain.deltas[task.layers[0]].mul_(1.1)
    assert check(load.lm, task, "plain, ours", EDITS, (ours, plain)).holds is False
    other = dense_matrices(load, load.tasks["alphaedit"])
    assert closed_forms(load, other, task, seen)[1].holds is False


def test_the_published_projection_is_ours(load: Workload) -> None:
    layer = load.tasks["alphaedit"].layers[0]
    projector = load.projectors[layer]
    published = null_projection(load.moments[layer].mean, projector.basis.shape[1])
    assert apart(projector.apply(torch.eye(projector.d_in)), published) < 1e-4
