"""The plug-in in the real EasyEdit: one flag, six methods, every entry."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.easyedit.host import HOST_METHODS
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.easyedit_stats import HostMoments, read_host_moment
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.host.tiny_host import (
    CONTEXTS,
    MODULES,
    SAMPLES,
    SEARCH,
    TinyHostModel,
    algorithms,
    hparams_class,
    main_module,
    pin_contexts,
    skip_without_host,
)
from tests.tiny import edit

skip_without_host()

NAMES = [method.name for method in HOST_METHODS]


def flag(tiny: TinyHostModel, **more: Any) -> dict[str, Any]:
    """The flag; L2 small, so that a delta is well above the rounding of float32 weights."""
    cut = tiny.nullspace_threshold
    return {"null_space": True, "null_space_cut": cut, "null_space_l2": 1.0, **more}


def run(
    method: str, tiny: TinyHostModel, requests: list[Any], model: Any = None, **keys: Any
) -> Any:
    """Apply ``method`` to a fresh tiny model as the host's editor does."""
    pin_contexts(method)
    loaded, tokenizer = tiny.load() if model is None else model
    hparams = tiny.hparams(method, **keys)
    _, copies = algorithms()[method](
        loaded, tokenizer, requests, hparams,
        copy=False, return_orig_weights=True, keep_original_weight=False,
    )  # fmt: skip
    return loaded, copies


def weights(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def projector_of(tiny: TinyHostModel, layer: int) -> Projector:
    module = MODULES[tiny.family]["rewrite_module_tmp"].format(layer)
    files = HostMoments(tiny.stats_dir, str(tiny.folder), samples=SAMPLES)
    moment = read_host_moment(files.path(module))
    mean = SecondMoment(moment.mean.float().double(), 1)
    return Projector.fit(mean, Cut(CutRule.absolute, tiny.nullspace_threshold))


def leaks(tiny: TinyHostModel, method: str, model: Any) -> dict[int, float]:
    """``‖ΔU‖ / ‖Δ‖`` of what each edited layer has gained."""
    fresh, tokenizer = tiny.load()
    before, after = (EditableModel.wrap(m, tokenizer) for m in (fresh, model))
    found = {}
    for layer in tiny.hparams(method).layers:
        delta = (after.weight(layer) - before.weight(layer)).double()
        assert delta.norm() > 0
        found[layer] = projector_of(tiny, layer).leakage(Delta(delta))
    return found


def request_of(tiny: TinyHostModel, count: int = 1) -> list[dict[str, str]]:
    return [dict(request) for request in tiny.requests[:count]]


@pytest.mark.parametrize("method", NAMES)
def test_every_delta_ends_in_the_null_space(
    registered: ModuleType, tiny: TinyHostModel, method: str
) -> None:
    model, _ = run(method, tiny, request_of(tiny), **flag(tiny))
    assert max(leaks(tiny, method, model).values()) < 1e-5
    plain, _ = run(method, tiny, request_of(tiny))
    assert max(leaks(tiny, method, plain).values()) > 1e-3


@pytest.mark.parametrize("method", NAMES)
def test_the_copy_restores_every_changed_weight(
    registered: ModuleType, tiny: TinyHostModel, method: str
) -> None:
    model, copies = run(method, tiny, request_of(tiny), **flag(tiny))
    fresh = weights(tiny.load()[0])
    for name, weight in weights(model).items():
        changed = not torch.equal(weight, fresh[name])
        assert changed == (name in copies)
        assert not changed or torch.equal(copies[name], fresh[name])


@pytest.mark.parametrize("method", NAMES)
def test_the_hosts_own_yaml_takes_the_flag(
    registered: ModuleType, tiny: TinyHostModel, method: str, tmp_path: Any
) -> None:
    path = tiny.write_hparams(method, tmp_path, null_space=True, null_space_cut="2e-2")
    hparams = hparams_class(method).from_hparams(str(path))
    assert hparams.null_space is True
    assert hparams.null_space_cut == 0.02
    wrong = tiny.write_hparams(method, tmp_path, nul_space=True)
    with pytest.raises(TypeError, match="nul_space"):
        hparams_class(method).from_hparams(str(wrong))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, NumericalError])
@pytest.mark.parametrize("method", NAMES)
def test_a_failure_halfway_changes_nothing(
    registered: ModuleType,
    tiny_gpt2: TinyHostModel,
    method: str,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the second layer, when the first is written; then the same edit works."""
    model = tiny_gpt2.load()
    before, request = weights(model[0]), request_of(tiny_gpt2)
    one_layer = method in ("ROME", "R-ROME")
    name, late = ("compute_v", 1) if one_layer else ("compute_ks", 2)
    module, calls = main_module(method), []
    real, original = getattr(module, name), module.upd_matrix_match_shape

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        calls.append(weights(model[0]))
        found = real(*args, **kwargs)
        if len(calls) < late:
            return found
        if error is not NumericalError:
            raise error("halfway")
        if isinstance(found, dict):
            return {key: value * torch.nan for key, value in found.items()}
        return found * torch.nan

    with monkeypatch.context() as patch:
        patch.setattr(module, name, poisoned)
        with pytest.raises((error, RuntimeError)):
            run(method, tiny_gpt2, request, model, **flag(tiny_gpt2, null_space_mode="post"))
    if not one_layer:
        assert any(not torch.equal(w, before[n]) for n, w in calls[-1].items())
    assert all(torch.equal(w, before[n]) for n, w in weights(model[0]).items())
    assert module.upd_matrix_match_shape is original
    run(method, tiny_gpt2, request, model, **flag(tiny_gpt2))
    assert max(leaks(tiny_gpt2, method, model[0]).values()) < 1e-5


def native(tiny: TinyHostModel, method: str) -> tuple[EditableModel, EditSession, Recipe]:
    """Our own engine, set up as the host is."""
    hparams = tiny.hparams(method)
    lm = EditableModel.wrap(*tiny.load())
    layers = tuple(hparams.layers)
    files = HostMoments(tiny.stats_dir, str(tiny.folder), samples=SAMPLES)
    moments = {n: read_host_moment(files.path(lm.layout.down_proj.format(n))) for n in layers}
    base = Rome() if method == "ROME" else Memit(hparams.mom2_update_weight)
    projectors = {layer: projector_of(tiny, layer) for layer in layers}
    settings = TargetSettings(
        SEARCH["v_num_grad_steps"], SEARCH["v_lr"], SEARCH["v_weight_decay"],
        SEARCH["kl_factor"], SEARCH["clamp_norm_factor"],
    )  # fmt: skip
    contexts = ContextTemplates.of(CONTEXTS, bare_apart=False)
    recipe = Recipe(
        AlphaEdit(base, projectors, ridge=1.0), layers, contexts, moments, targets=settings
    )
    return lm, EditSession(lm, layers), recipe


@pytest.mark.parametrize("method", ["ROME", "MEMIT"])
def test_host_and_native_agree(registered: ModuleType, tiny: TinyHostModel, method: str) -> None:
    """ROME in post mode, MEMIT in solve mode with the keys of an earlier batch."""
    size = 1 if method == "ROME" else 2
    batches = [tiny.requests[:size], tiny.requests[size : 2 * size]]
    model = tiny.load()
    _, session, recipe = native(tiny, method)
    for batch in batches:
        run(method, tiny, [dict(r) for r in batch], model, **flag(tiny))
        requests = [Request.parse(r["prompt"], r["subject"], r["target_new"]) for r in batch]
        edit(session, recipe, requests)
    hosted, fresh = EditableModel.wrap(*model), EditableModel.wrap(*tiny.load())
    for layer in recipe.layers:
        theirs = hosted.weight(layer) - fresh.weight(layer)
        ours = session.accumulated(layer)
        assert (theirs - ours).norm() / ours.norm() < 1e-2


def asked(tiny: TinyHostModel, count: int) -> dict[str, Any]:
    chosen = tiny.requests[:count]
    return {
        "prompts": [r["prompt"].replace("{}", r["subject"]) for r in chosen],
        "subject": [r["subject"] for r in chosen],
        "target_new": [r["target_new"] for r in chosen],
        "ground_truth": ["Rome"] * count,
        "verbose": False,
    }
