"""Hidden states in the plane: distances are kept, and what is read is the model's own."""

from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.data.request import Probe
from alphaedit_plugin.metrics.shift import PROMPTS, representations, shift_of, shift_prompts
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import DEPTH, REQUESTS


def test_representations_are_the_last_tokens_hidden_states(gpt2: EditableModel) -> None:
    prompts = ["The capital of Norland is", "It", "Ada Marsh speaks"]
    for layer in (0, DEPTH - 2):
        found = representations(gpt2, prompts, layer)
        for column, prompt in zip(found.T, prompts, strict=True):
            ids = torch.tensor([tokenise(gpt2.tokenizer, prompt)])
            with torch.no_grad():
                states = gpt2.model(ids, output_hidden_states=True).hidden_states[layer + 1]
            assert torch.allclose(column, states[0, -1], atol=1e-5)


def test_states_that_lie_in_a_plane_keep_their_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(7, 2, generator=generator, dtype=torch.float64))[0]
    before, after = axes @ flat[:, :6] + 3, axes @ flat[:, 6:] + 3
    shift = shift_of(before, after, 1)
    drawn = torch.tensor([*shift.before, *shift.after], dtype=torch.float64)
    assert torch.allclose(torch.cdist(drawn, drawn), torch.cdist(flat.T, flat.T), atol=1e-3)
    assert shift.shown == pytest.approx(1)
    moved = (after - before).norm(dim=0).mean()
    spread = (before - before.mean(dim=1, keepdim=True)).norm(dim=0).mean()
    assert shift.relative == pytest.approx((moved / spread).item())


def test_nothing_moved() -> None:
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    shift = shift_of(states, states.clone(), 0)
    assert shift.relative == 0
    assert shift.before == shift.after


def test_prompts_are_those_that_no_edit_is_about() -> None:
    many = Probe(tuple(f"prompt {i}" for i in range(PROMPTS)), ("x",) * PROMPTS)
    found = shift_prompts(REQUESTS, {"seen": many, "unseen": many})
    assert len(found) == PROMPTS
    assert found[PROMPTS // 2] == "prompt 0"  # of the second group
    assert shift_prompts(REQUESTS, {}) == [request.filled for request in REQUESTS]
