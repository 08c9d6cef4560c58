"""The unmodified host runs here: what the plug-in builds on, and what it has to work around."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alphaedit_plugin.nullspace.easyedit_stats import HostMoments, read_host_moment
from tests.host.tiny_host import (
    LAYERS,
    METHODS,
    ONE_BY_ONE,
    ROME_LAYER,
    SAMPLES,
    TinyHostModel,
    algorithms,
    hparams_class,
    main_module,
    pin_contexts,
    skip_without_host,
)
from tests.tiny import relative

skip_without_host()

EDITS = [method for method in METHODS if method != "AlphaEdit"]
BATCHABLE = [method for method in EDITS if method not in ONE_BY_ONE]
WAYS = ("path", "tuple")


def editor_of(host: ModuleType, tiny: TinyHostModel, method: str, way: str, **changes: Any) -> Any:
    """A ``BaseEditor`` for ``tiny``, loaded by the host (path) or handed to it (tuple)."""
    if way == "tuple":
        changes["model_name"] = tiny.load()
    editor = host.BaseEditor.from_hparams(tiny.hparams(method, **changes))
    if way == "tuple":
        editor.model_name = str(tiny.folder)  # see test_a_tuple_cannot_be_evaluated
    return editor


def arguments(tiny: TinyHostModel, count: int) -> dict[str, list[str]]:
    """The first ``count`` requests as the host's entries take them."""
    requests = tiny.requests[:count]
    return {
        "prompts": [r["prompt"].format(r["subject"]) for r in requests],
        "target_new": [r["target_new"] for r in requests],
        "subject": [r["subject"] for r in requests],
    }


def parameters(editor: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in editor.model.named_parameters()}


def changed(editor: Any, before: dict[str, Tensor]) -> list[str]:
    """Names of the parameters that differ from ``before``, in the model's order."""
    now = editor.model.named_parameters()
    return [name for name, p in now if not torch.equal(p.detach(), before[name])]


def edited(tiny: TinyHostModel, method: str) -> list[str]:
    return tiny.weight_names((ROME_LAYER,) if method in ONE_BY_ONE else LAYERS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", EDITS)
def test_edit_keeps_when_sequential(
    host: ModuleType, tiny: TinyHostModel, method: str, way: str
) -> None:
    editor = editor_of(host, tiny, method, way)
    before = parameters(editor)
    metrics, model, _ = editor.edit(**arguments(tiny, 2), sequential_edit=True)
    assert [set(m) for m in metrics] == 2 * [{"pre", "post", "case_id", "requested_rewrite"}]
    assert model is editor.model
    assert changed(editor, before) == edited(tiny, method)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", EDITS)
def test_edit_restores_when_not_sequential(
    host: ModuleType, tiny: TinyHostModel, method: str, way: str
) -> None:
    editor = editor_of(host, tiny, method, way)
    before = parameters(editor)
    _, _, weights = editor.edit(**arguments(tiny, 2), sequential_edit=False)
    if method == "EMMET":  # emmet_main.py:63 drops the weights to restore from
        assert weights == {}
        assert changed(editor, before) == edited(tiny, method)
    else:
        assert list(weights) == edited(tiny, method)
        assert changed(editor, before) == []


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("method", BATCHABLE)
def test_batch_edit(host: ModuleType, tiny: TinyHostModel, method: str, sequential: bool) -> None:
    editor = editor_of(host, tiny, method, "path", batch_size=2)
    before = parameters(editor)
    metrics, _, _ = editor.batch_edit(**arguments(tiny, 3), sequential_edit=sequential)
    assert [m["case_id"] for m in metrics] == [0, 1, 0]  # counted per chunk
    stays = sequential or method == "EMMET"
    assert changed(editor, before) == (edited(tiny, method) if stays else [])


@pytest.mark.parametrize("method", ONE_BY_ONE)
def test_batch_edit_refuses_what_is_not_in_its_list(
    host: ModuleType, tiny_gpt2: TinyHostModel, method: str
) -> None:
    editor = editor_of(host, tiny_gpt2, method, "path")
    with pytest.raises(AssertionError, match="can not batch edit"):
        editor.batch_edit(**arguments(tiny_gpt2, 2))


def test_a_tuple_cannot_be_evaluated(host: ModuleType, tiny_gpt2: TinyHostModel) -> None:
    """``evaluate.py`` looks for "t5" in a model name that is the tuple itself."""
    hparams = tiny_gpt2.hparams("ROME", model_name=tiny_gpt2.load())
    editor = host.BaseEditor.from_hparams(hparams)
    with pytest.raises(AttributeError, match="'tuple' object has no attribute 'lower'"):
        editor.edit(**arguments(tiny_gpt2, 1))


@pytest.mark.parametrize("method", EDITS)
def test_padding_side_goes_by_a_list_of_names(
    host: ModuleType, tiny: TinyHostModel, method: str
) -> None:
    """A method that is not in the list gets left padding, which moves the subject."""
    editor = editor_of(host, tiny, method, "path")
    assert editor.tok.padding_side == ("left" if method in ("MEMIT-FE", "PMET") else "right")


@pytest.mark.parametrize("method", METHODS)
def test_from_hparams_refuses_unknown_keys(
    host: ModuleType, tiny_gpt2: TinyHostModel, tmp_path: Path, method: str
) -> None:
    cls = hparams_class(method)
    known = cls.from_hparams(str(tiny_gpt2.write_hparams(method, tmp_path)))
    assert known == tiny_gpt2.hparams(method)
    flagged = tiny_gpt2.write_hparams(method, tmp_path, null_space=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'null_space'"):
        cls.from_hparams(str(flagged))


@pytest.mark.parametrize(
    ("method", "name"), [("ROME", "rome"), ("MEMIT", "memit"), ("AlphaEdit", "alphaedit")]
)
def test_deltas_are_the_oracles(
    host: ModuleType, tiny: TinyHostModel, method: str, name: str
) -> None:
    """Same versions or not, the host gives the numbers it gave when the oracle was made."""
    if not tiny.expected:
        pytest.skip("no oracle: set ORACLE_DIR")
    pin_contexts(method)
    one, batch = method in ONE_BY_ONE, 1 if method in ONE_BY_ONE else 3
    model, tok = tiny.load()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    apply = algorithms()[method]
    requests = tiny.requests[:3] if one else tiny.requests
    for start in range(0, len(requests), batch):
        apply(model, tok, requests[start : start + batch], tiny.hparams(method))
    for layer, weight in zip(LAYERS, tiny.weight_names(), strict=True):
        if f"{name}.delta.{layer}" in tiny.expected:
            delta = model.get_parameter(weight) - before[weight]
            assert relative(delta, tiny.expected[f"{name}.delta.{layer}"]) < 1e-3


def test_second_moments_are_saved_as_we_read_and_write_them(
    host: ModuleType, tiny_gpt2: TinyHostModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's own writer, on a corpus of a few texts instead of Wikipedia."""
    module = sys.modules[main_module("MEMIT").layer_stats.__module__]
    texts = [{"text": f"{r['prompt']} {r['target_new']}"} for r in tiny_gpt2.requests]
    monkeypatch.setattr(module, "load_dataset", lambda *_: {"train": texts})
    hparams = tiny_gpt2.hparams("MEMIT", stats_dir=str(tmp_path), mom2_n_samples=len(texts))
    model, tok = tiny_gpt2.load()
    name = tiny_gpt2.weight_names()[0].removesuffix(".weight")
    cov = main_module("MEMIT").get_cov(
        model, tok, name, "wikipedia", len(texts), "float32", hparams=hparams
    )
    path = HostMoments(tmp_path, str(tiny_gpt2.folder), samples=len(texts)).path(name)
    assert relative(read_host_moment(path).mean, cov) < 1e-6

    ours = HostMoments(tiny_gpt2.stats_dir, str(tiny_gpt2.folder), samples=SAMPLES).path(name)
    with np.load(path) as theirs, np.load(ours) as written:
        assert set(theirs) == set(written)
        for key in theirs:
            assert (theirs[key].dtype, theirs[key].shape) == (
                written[key].dtype,
                written[key].shape,
            )
