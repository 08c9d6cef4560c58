"""A model that accelerate has spread over devices is edited as any other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from safetensors.torch import load_file
from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError, ModelError
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.decoding import continue_greedily
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import Fingerprint, upstream_digests
from alphaedit_plugin.models.hooks import inference
from alphaedit_plugin.models.offload import META, settle, stored, value_of
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.saved import config_of
from tests.second_device import ELSEWHERE, second_device
from tests.tiny import CONTEXTS, DEPTH, REQUESTS, SEARCH, hook_count, random_sequences, relative

LAYERS = (1, 2)

Spread = Callable[[EditableModel, Path], None]


def _device_map(lm: EditableModel, of: Callable[[int], str]) -> dict[str, str]:
    """Everything on the CPU, but each block where ``of`` says."""
    blocks = {lm.layout.block.format(layer): of(layer) for layer in range(DEPTH)}
    stack = lm.layout.block.rpartition(".")[0]
    outer, _, inner = stack.rpartition(".")
    others = [
        *(f"{outer}.{name}" for name, _ in lm.model.get_submodule(outer).named_children()),
        *(name for name, _ in lm.model.named_children()),
    ]
    return blocks | {name: "cpu" for name in others if name not in (outer, f"{outer}.{inner}")}


def _two_parts(lm: EditableModel, folder: Path) -> None:
    """The upper half of the blocks on disk, among them one that is edited."""
    parts = _device_map(lm, lambda layer: "disk" if layer >= 2 else "cpu")
    dispatch_model(lm.model, parts, offload_dir=folder, force_hooks=True)


def _hooks_only(lm: EditableModel, _: Path) -> None:
    dispatch_model(lm.model, _device_map(lm, lambda _: "cpu"), force_hooks=True)


def _offloaded(lm: EditableModel, _: Path) -> None:
    cpu_offload(lm.model, torch.device("cpu"))


def _offloaded_by_block(lm: EditableModel, _: Path) -> None:
    """Whole blocks at once, so that a forward pass ended inside one leaves it loaded."""
    cpu_offload(lm.model, torch.device("cpu"), preload_module_classes=[type(lm.block(0)).__name__])


SPREADS = {
    "hooks only": _hooks_only,
    "two parts": _two_parts,
    "offloaded": _offloaded,
    "offloaded by block": _offloaded_by_block,
}


@pytest.fixture(params=SPREADS)
def spread(request: pytest.FixtureRequest) -> Spread:
    return SPREADS[request.param]


def _twin(lm: EditableModel) -> EditableModel:
    return EditableModel(copy.deepcopy(lm.model), lm.tokenizer, lm.layout)


def _values(lm: EditableModel) -> dict[str, Tensor]:
    names = [name for name, _ in lm.model.named_parameters()]
    return {name: value_of(lm.model, name).clone() for name in names}


def _assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        assert torch.equal(actual[name], value), f"{name} differs"


def _editors(
    views: list[EditableModel],
    base: str,
    moments: dict[int, SecondMoment],
    projectors: dict[int, Projector],
) -> list[NullSpaceEditor]:
    method = Rome() if base == "rome" else AlphaEdit(Memit(), projectors)
    return [
        NullSpaceEditor(lm, Recipe(method, LAYERS, CONTEXTS, moments, targets=SEARCH), 2)
        for lm in views
    ]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("base", ["rome", "memit"])
def test_edits_and_undoes_as_a_plain_model(
    lm: EditableModel,
    base: str,
    spread: Spread,
    moments: dict[int, SecondMoment],
    projectors: dict[int, Projector],
    tmp_path: Path,
) -> None:
    plain = _twin(lm)
    spread(lm, tmp_path)
    before = _values(lm)
    here, there = _editors([lm, plain], base, moments, projectors)
    for editor in (here, there):
        editor.apply(REQUESTS[:2])
        editor.apply(REQUESTS[2:])
    _assert_same(_values(lm), _values(plain))
    assert not torch.equal(lm.weight(2), before[lm.weight_name(2)].view_as(lm.stored(2)).T)
    prompts = [request.filled for request in REQUESTS]
    lengths = [4] * len(prompts)
    assert continue_greedily(lm, prompts, lengths) == continue_greedily(plain, prompts, lengths)
    here.session.undo(2)
    _assert_same(_values(lm), before)


def test_a_failure_halfway_changes_nothing(
    gpt2: EditableModel, spread: Spread, gpt2_moments: dict[int, SecondMoment], tmp_path: Path
) -> None:
    spread(gpt2, tmp_path)
    before = _values(gpt2)
    broken = SecondMoment(torch.full_like(gpt2_moments[2].total, torch.nan), 1)
    recipe = Recipe(Memit(), LAYERS, CONTEXTS, gpt2_moments | {2: broken}, targets=SEARCH)
    editor = NullSpaceEditor(gpt2, recipe)
    with pytest.raises(Exception, match="not finite"):
        editor.apply(REQUESTS[:2])
    _assert_same(_values(gpt2), before)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_statistics_and_digests_do_not_depend_on_devices(
    lm: EditableModel, spread: Spread, tmp_path: Path
) -> None:
    plain = _twin(lm)
    spread(lm, tmp_path)
    texts = random_sequences(len(lm.tokenizer), 20)
    here, there = (collect_second_moments(v, texts, LAYERS) for v in (lm, plain))
    for layer in LAYERS:
        assert torch.equal(here[layer].total, there[layer].total)
    assert upstream_digests(lm, LAYERS) == upstream_digests(plain, LAYERS)
    assert Fingerprint.of(plain, 2).covers(Fingerprint.of(lm, 2))


def test_hooks_flags_and_devices_do_not_change(
    gpt2: EditableModel, spread: Spread, gpt2_moments: dict[int, SecondMoment], tmp_path: Path
) -> None:
    spread(gpt2, tmp_path)
    gpt2.model.get_parameter(gpt2.weight_name(1)).requires_grad_(False)

    def state() -> list[Any]:
        parameters = gpt2.model.named_parameters()
        where = [(name, p.device, p.requires_grad) for name, p in parameters]
        return [where, hook_count(gpt2.model), gpt2.model.__dict__.get("forward")]

    before = state()
    recipe = Recipe(Memit(), LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH)
    NullSpaceEditor(gpt2, recipe).edit_requests(REQUESTS[:1])
    assert state() == before


def test_a_forward_pass_that_ends_early_leaves_no_copy(gpt2: EditableModel, tmp_path: Path) -> None:
    _offloaded_by_block(gpt2, tmp_path)
    hook = gpt2.block(0)._hf_hook
    with inference(gpt2.model):
        hook.pre_forward(gpt2.block(0))
        assert gpt2.parameter(0).device != META
        # An edit meanwhile goes to the weight, not to the copy.
        assert gpt2.stored(0).data_ptr() == stored(gpt2.model, gpt2.weight_name(0)).data_ptr()
    assert gpt2.parameter(0).device == META
    settle(gpt2.model)
    assert gpt2.parameter(0).device == META


def test_weights_without_a_value_are_refused(gpt2: EditableModel) -> None:
    gpt2.model.to("meta")
    with pytest.raises(ModelError, match=r"h\.1\.mlp\.c_proj\.weight has no value"):
        gpt2.weight(1)


# ---------------------------------------------------------------------------------------------
# A second device


@pytest.mark.parametrize(("family", "main"), [("llama", "cpu"), ("gpt2", str(ELSEWHERE))])
@pytest.mark.parametrize("method", [Rome(), Prune(moment_weight=1.0), None], ids=str)
def test_nothing_meets_across_devices(
    family: str,
    main: str,
    method: BaseMethod | None,
    templates: dict[str, EditableModel],
    projectors: dict[int, Projector],
) -> None:
    """Layer 1 is on the CPU, layer 2 on the second device; if ``main`` is too, 1 is offloaded.

    The second device computes attention in another order, hence the tolerance.
    """
    method = method or AlphaEdit(Memit(), projectors)
    changes = []
    for spread in (False, True):
        lm = _twin(templates[family])
        with second_device():
            if spread:
                parts = _device_map(lm, lambda layer: str(ELSEWHERE) if layer > 1 else "cpu")
                dispatch_model(lm.model, parts, main_device=main, force_hooks=True)
                assert (lm.parameter(1).device == META) == (main != "cpu")
                assert lm.stored(2).device == ELSEWHERE
            texts = random_sequences(len(lm.tokenizer))
            moments = collect_second_moments(lm, texts, LAYERS)
            recipe = Recipe(method, LAYERS, CONTEXTS, moments, targets=SEARCH)
            editor = NullSpaceEditor(lm, recipe)
            editor.edit_requests(REQUESTS[:1], sequential_edit=True, batch_size=2)
            editor.finalize()
            changes.append([editor.session.change(layer).dense.to("cpu") for layer in LAYERS])
            editor.session.reset()
    for plain, spread_out in zip(*changes, strict=True):
        assert relative(spread_out, plain) < 1e-3


# ---------------------------------------------------------------------------------------------
# From a folder


def _spread_config(saved: Path, gpt2: EditableModel, **parts: str) -> EditorConfig:
    config = config_of(saved)
    config.model.device_map = _device_map(gpt2, lambda n: parts.get(f"block{n}", "cpu"))
    return config


def test_a_checkpoint_on_disk_is_never_written(
    saved: Path, gpt2: EditableModel, gpt2_moments: dict[int, SecondMoment], tmp_path: Path
) -> None:
    """Parts that stay on disk are read from the checkpoint itself; an edit of them persists."""
    file = saved / "model" / "model.safetensors"
    content = file.read_bytes()
    lm = load_model(_spread_config(saved, gpt2, block1="disk", block2="disk").model)
    assert lm.parameter(1).device == META
    recipe = Recipe(Memit(), LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH)
    editor = NullSpaceEditor(lm, recipe)
    editor.apply(REQUESTS[:2])
    assert file.read_bytes() == content
    lm.model.save_pretrained(tmp_path / "edited")
    edited = load_file(tmp_path / "edited" / "model.safetensors")
    name = lm.weight_name(2)
    assert torch.equal(edited[name], lm.stored(2))
    assert not torch.equal(edited[name], gpt2.stored(2))


def test_auto_and_one_device(saved: Path, gpt2: EditableModel) -> None:
    config = config_of(saved, "model.device_map=auto")
    lm = load_model(config.model)
    assert torch.equal(lm.weight(1).cpu(), gpt2.weight(1))


def test_device_map_on_the_command_line(saved: Path) -> None:
    config = config_of(saved, "model.device_map={transformer: cpu, lm_head: cpu}")
    assert load_model(config.model).depth == DEPTH


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.device_map=auto", "model.device=cpu"], "both set: remove one of them"),
        (["model.max_memory={cpu: 1GiB}"], r"max_memory is for model\.device_map=auto"),
    ],
)
def test_contradictions_are_refused(saved: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(config_of(saved, *overrides).model)


@pytest.mark.parametrize("value", ["nowhere", "{transformer: nowhere}"])
def test_a_device_map_that_does_not_fit(saved: Path, value: str) -> None:
    with pytest.raises(ModelError, match="cannot load model") as caught:
        load_model(config_of(saved, f"model.device_map={value}").model)
    assert "\n" not in str(caught.value)
