"""Memory runs out in the middle of a batch: the work shrinks and goes on, with the same result."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import OutOfMemory
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.metrics.easyedit import edit_quality
from alphaedit_plugin.models.decoding import continue_greedily
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import (
    CONTEXTS,
    REQUESTS,
    SEARCH,
    assert_same_weights,
    edit,
    hook_count,
    relative,
    weights_of,
)

LAYERS = (0, 1, 2)
ERRORS: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1024.00 MiB"),
    lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    MemoryError,
]


@contextmanager
def memory_for(lm: EditableModel, rows: int, error: Callable[[], Exception]) -> Iterator[None]:
    """No forward pass of more than ``rows`` sentences fits; it fails halfway through."""

    def check(_: Any, args: tuple[torch.Tensor, ...], *__: Any) -> None:
        if args[0].shape[0] > rows:
            raise error()

    handle = lm.block(1).register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def recipe_of(
    name: str, moments: dict[int, SecondMoment], projectors: dict[int, Projector]
) -> Recipe:
    methods: dict[str, BaseMethod] = {
        "rome": Rome(), "memit": Memit(20.0), "alphaedit": AlphaEdit(Memit(), projectors),
    }  # fmt: skip
    return Recipe(methods[name], LAYERS, CONTEXTS, moments, targets=SEARCH)


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
@pytest.mark.parametrize("name", ["rome", "memit", "alphaedit"])
def test_a_batch_goes_on_with_the_same_result(
    gpt2: EditableModel,
    gpt2_moments: dict[int, SecondMoment],
    gpt2_projectors: dict[int, Projector],
    name: str,
    error: Callable[[], Exception],
) -> None:
    session, recipe = EditSession(gpt2, LAYERS), recipe_of(name, gpt2_moments, gpt2_projectors)
    edit(session, recipe, REQUESTS)
    expected = {layer: session.accumulated(layer).clone() for layer in LAYERS}
    session.reset()
    with memory_for(gpt2, len(CONTEXTS.flat) + 1, error):
        edit(session, recipe, REQUESTS)
    for layer in LAYERS:
        assert relative(session.accumulated(layer), expected[layer]) < 1e-3


def test_a_request_that_does_not_fit_alone_changes_nothing(
    gpt2: EditableModel,
    gpt2_moments: dict[int, SecondMoment],
    gpt2_projectors: dict[int, Projector],
) -> None:
    session, recipe = (
        EditSession(gpt2, LAYERS),
        recipe_of("memit", gpt2_moments, gpt2_projectors),
    )
    before = weights_of(gpt2)
    with (
        memory_for(gpt2, len(CONTEXTS.flat), ERRORS[0]),
        pytest.raises(OutOfMemory, match="with one item of"),
    ):
        edit(session, recipe, REQUESTS)
    assert_same_weights(gpt2, before)
    assert session.journal == []
    assert hook_count(gpt2.model) == 0


def test_scores_and_answers_are_the_same(gpt2: EditableModel) -> None:
    prompts = [request.filled for request in REQUESTS]
    quality, said = edit_quality(gpt2, REQUESTS), continue_greedily(gpt2, prompts, [3, 1, 4, 2])
    with memory_for(gpt2, 1, ERRORS[1]):
        assert edit_quality(gpt2, REQUESTS) == quality
        assert continue_greedily(gpt2, prompts, [3, 1, 4, 2]) == said


REAL = """
import logging, resource, sys
import torch
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import score
from tests.tiny import build_model, fast_tokenizer, REQUESTS

torch.set_num_threads(1)
tokenizer = fast_tokenizer()
lm = EditableModel.wrap(build_model("gpt2", len(tokenizer)), tokenizer)
pairs = [(f"{number} is " * 10, "Rome") for number in range(3000)]
score(lm, pairs[:2])
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger().addHandler(handler)
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (pages + 60 * 2**20, hard))
small = score(lm, pairs, budget=10**6)
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert said and "out of memory with" in said[0], said
count = len(said)
large = score(lm, pairs, budget=10**6)
assert len(said) == count, said
assert [a.predicted for a in small] == [a.predicted for a in large]
assert all(abs(a.log_prob - b.log_prob) < 1e-4 for a, b in zip(small, large))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by RLIMIT_AS and /proc")
def test_a_process_that_really_runs_out_of_memory_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REAL], env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
