"""Whatever is asked for, a model is edited as the journal says, or not at all."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from alphaedit_plugin.common.errors import AlphaEditError
from alphaedit_plugin.data.arguments import prepare_requests
from alphaedit_plugin.data.conflicts import OnConflict
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import OnFailure, TargetSettings
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rect import Rect
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.fuzz.strategies import mostly, records, text, wrong
from tests.tiny import CONTEXTS, assert_same_weights, hook_count, weights_of

LAYERS = (0, 2)
COLUMNS = ("prompts", "target_new", "subject", "ground_truth", "rephrase_prompts")
METHODS: tuple[BaseMethod, ...] = (Rome(), Memit(20.0), Rect(), Prune())


@pytest.fixture(scope="module")
def shared(templates: dict[str, EditableModel]) -> EditableModel:
    """One model for all examples: each leaves it as it was."""
    template = templates["gpt2"]
    return EditableModel(copy.deepcopy(template.model), template.tokenizer, template.layout)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `NullSpaceEditor.edit`."""
    rows = draw(st.lists(records(), min_size=1, max_size=4))
    names = {"prompts": "prompt", "rephrase_prompts": "rephrase_prompt"}
    arguments = {name: [row.get(names.get(name, name)) for row in rows] for name in COLUMNS}
    if draw(st.integers(0, 9)) == 0:
        arguments[draw(st.sampled_from(COLUMNS))] = draw(st.one_of(text, wrong))
    return arguments


number = st.one_of(st.floats(0, 2), st.floats(allow_nan=False, allow_infinity=False, min_value=0))
searches = st.fixed_dictionaries(
    {},
    optional={
        "lr": number, "weight_decay": number, "kl_factor": number, "clamp_norm_factor": number,
        "stop_loss": st.floats(-1, 3), "budget": st.integers(1, 500),
        "on_failure": st.sampled_from(OnFailure),
    },
)  # fmt: skip


@settings(max_examples=settings.default.max_examples, suppress_health_check=list(HealthCheck))
@given(
    arguments=calls(),
    search=mostly(st.just({"lr": 0.2}), searches),
    method=st.sampled_from(METHODS),
    null_space=st.booleans(),
    batch_size=st.integers(1, 3),
    sequential=st.booleans(),
    policy=st.sampled_from(OnConflict),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
)
def test_a_model_is_never_half_edited(
    shared: EditableModel,
    all_moments: dict[str, dict[int, SecondMoment]],
    gpt2_projectors: dict[int, Projector],
    arguments: dict[str, Any],
    search: dict[str, Any],
    method: BaseMethod,
    null_space: bool,
    batch_size: int,
    sequential: bool,
    policy: OnConflict,
    dtype: torch.dtype,
) -> None:
    original = weights_of(shared)
    shared.model.to(dtype)
    pristine = weights_of(shared)
    try:
        session = EditSession(shared, LAYERS)
        with suppress(AlphaEditError):
            targets = TargetSettings(steps=2, **search)
            chosen = AlphaEdit(method, gpt2_projectors) if null_space else method
            recipe = Recipe(
                chosen, LAYERS, CONTEXTS, all_moments["gpt2"], targets=targets, on_conflict=policy
            )
            editor = NullSpaceEditor(shared, recipe, batch_size)
            session = editor.session
            rows, _, _ = editor.batch_edit(**arguments, sequential_edit=sequential, verbose=False)
            assert len(rows) == len(prepare_requests(**arguments))
            assert sequential or not session.journal
            event("edited")
        session.check_weights()
        if not session.journal:
            assert_same_weights(shared, pristine)
        session.reset()
        assert_same_weights(shared, pristine)
        assert hook_count(shared.model) == 0
    finally:
        shared.model.float()
        for name, parameter in shared.model.named_parameters():
            parameter.data.copy_(original[name])
