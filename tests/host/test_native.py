"""PRUNE and RECT as algorithms of the real host."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import alphaedit_plugin
from alphaedit_plugin import PRUNEHyperParams, RECTHyperParams
from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.models.editable import EditableModel
from tests.host.test_bridge import batches, config
from tests.host.test_flag import asked, projector_of, weights
from tests.host.tiny_host import TinyHostModel, algorithms, pin_contexts, skip_without_host

skip_without_host()

KINDS = {"PRUNE": PRUNEHyperParams, "RECT": RECTHyperParams}


@pytest.fixture
def registered(registered: ModuleType) -> ModuleType:
    pin_contexts("MEMIT")
    return registered


def settings(tiny: TinyHostModel, method: str, **keys: Any) -> dict[str, Any]:
    cut = {"null_space_cut": tiny.nullspace_threshold, "null_space_l2": 1.0}
    return {**tiny.settings("MEMIT"), "alg_name": method, **cut, **keys}


def editor_of(host: ModuleType, tiny: TinyHostModel, method: str, **keys: Any) -> Any:
    return host.BaseEditor.from_hparams(KINDS[method](**settings(tiny, method, **keys)))


@pytest.mark.parametrize("null_space", [False, True])
@pytest.mark.parametrize("method", KINDS)
def test_they_edit_and_restore_in_the_hosts_editor(
    registered: ModuleType, tiny: TinyHostModel, method: str, null_space: bool
) -> None:
    editor = editor_of(registered, tiny, method, null_space=null_space)
    before = weights(editor.model)
    metrics, _, _ = editor.edit(**asked(tiny, 2), sequential_edit=False)
    assert len(metrics) == 2
    assert all(torch.equal(w, before[n]) for n, w in weights(editor.model).items())
    _, model, _ = editor.edit(**asked(tiny, 2), sequential_edit=True)
    lm, fresh = EditableModel.wrap(model, editor.tok), EditableModel.wrap(*tiny.load())
    for layer in editor.hparams.layers:
        delta = (lm.weight(layer) - fresh.weight(layer)).double()
        leak = projector_of(tiny, layer).leakage(Delta(delta))
        assert (leak < 1e-5) == null_space


@pytest.mark.parametrize("method", KINDS)
def test_batches_are_admitted(registered: ModuleType, tiny: TinyHostModel, method: str) -> None:
    editor = editor_of(registered, tiny, method, null_space=True, batch_size=2)
    before = weights(editor.model)
    metrics, _, _ = editor.batch_edit(**asked(tiny, 4), sequential_edit=True)
    assert len(metrics) == 4
    assert any(not torch.equal(w, before[n]) for n, w in weights(editor.model).items())


@pytest.mark.parametrize("method", KINDS)
def test_an_edit_taken_back_leaves_no_trace(
    registered: ModuleType, tiny: TinyHostModel, method: str
) -> None:
    alone = editor_of(registered, tiny, method, null_space=True)
    second = {k: v[1:] if isinstance(v, list) else v for k, v in asked(tiny, 2).items()}
    alone.edit(**second, sequential_edit=True)
    after = editor_of(registered, tiny, method, null_space=True)
    after.edit(**asked(tiny, 1), sequential_edit=False)
    after.edit(**second, sequential_edit=True)
    theirs = weights(after.model)
    assert all(torch.equal(w, theirs[n]) for n, w in weights(alone.model).items())


@pytest.mark.parametrize("null_space", [False, True])
@pytest.mark.parametrize("method", KINDS)
def test_they_write_what_our_engine_writes(
    registered: ModuleType, tiny: TinyHostModel, method: str, null_space: bool
) -> None:
    search = "model.target.steps=12", "model.contexts.bare_apart=false"
    ours = NullSpaceEditor.from_config(config(tiny, method.lower(), null_space, *search))
    hparams = KINDS[method](**settings(tiny, method, null_space=null_space))
    model, tokenizer = tiny.load()
    for number, batch in enumerate(batches(tiny)):
        ours.apply(batch)
        rows = [dict(row) for row in tiny.requests[2 * number :][:2]]
        algorithms()[method](model, tokenizer, rows, hparams)
    ours.finalize()
    fresh, edited = (EditableModel.wrap(*pair) for pair in (tiny.load(), (model, tokenizer)))
    for layer in hparams.layers:
        expected = ours.session.accumulated(layer)
        change = edited.weight(layer) - fresh.weight(layer)
        assert (change - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("null_space", [False, True])
@pytest.mark.parametrize("method", KINDS)
def test_a_pair_of_model_and_tokenizer_is_edited(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str, null_space: bool
) -> None:
    pair = tiny_gpt2.load()
    editor = editor_of(registered, tiny_gpt2, method, model_name=pair, null_space=null_space)
    before = weights(editor.model)
    metrics, _, _ = editor.edit(**asked(tiny_gpt2, 1), sequential_edit=False)
    assert "rewrite_acc" in metrics[0]["post"]
    assert all(torch.equal(w, before[n]) for n, w in weights(editor.model).items())
    editor.edit(**asked(tiny_gpt2, 1), sequential_edit=True)
    assert any(not torch.equal(w, before[n]) for n, w in weights(editor.model).items())


@pytest.mark.parametrize("method", KINDS)
def test_hparams_are_read_from_yaml(tiny: TinyHostModel, tmp_path: Path, method: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings(tiny, method, null_space=True) | {"v_lr": "1e-1"}))
    hparams = KINDS[method].from_hparams(str(path))
    assert hparams.v_lr == 0.1
    assert hparams.null_space is True
    path.write_text(yaml.safe_dump(settings(tiny, method) | {"kep_percent": 3, "alfa": 2}))
    with pytest.raises(ConfigError, match=r"kep_percent|alfa"):
        KINDS[method].from_hparams(str(path))
    path.write_text(yaml.safe_dump(settings(tiny, "MEMIT")))
    with pytest.raises(ConfigError, match="alg_name"):
        KINDS[method].from_hparams(str(path))


def test_they_are_gone_after_unregister(host: ModuleType) -> None:
    batches = importlib.import_module("easyeditor.editors.batch_editor").BatchEditor
    before = vars(batches)["is_batchable_method"]
    constructor = host.BaseEditor.__init__
    alphaedit_plugin.register()
    assert batches.is_batchable_method("PRUNE")
    assert not batches.is_batchable_method("ROME")
    alphaedit_plugin.unregister()
    assert vars(batches)["is_batchable_method"] is before
    assert host.BaseEditor.__init__ is constructor
    assert "PRUNE" not in algorithms()
