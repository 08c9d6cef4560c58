"""The plug-in in the real EasyEdit: one flag, six methods, every entry."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import alphaedit_plugin
from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError, NumericalError
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.easyedit import host, registration
from alphaedit_plugin.easyedit.host import METHODS
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

NAMES = [method.name for method in METHODS]


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
def test_without_the_flag_nothing_changes(
    host: ModuleType, tiny: TinyHostModel, method: str
) -> None:
    torch.manual_seed(0)
    before, _ = run(method, tiny, request_of(tiny))
    alphaedit_plugin.register()
    try:
        torch.manual_seed(0)
        during, _ = run(method, tiny, request_of(tiny))
    finally:
        alphaedit_plugin.unregister()
    for name, weight in weights(before).items():
        assert torch.equal(weight, weights(during)[name])


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


def test_registering_is_undone_exactly(host: ModuleType) -> None:
    functions = dict(algorithms())
    constructors = {name: hparams_class(name).__init__ for name in NAMES}
    first = alphaedit_plugin.register()
    assert alphaedit_plugin.register() == first
    assert set(first.supported) == {*NAMES, "PRUNE", "RECT"}
    assert "FT" in first.unsupported
    alphaedit_plugin.unregister()
    alphaedit_plugin.unregister()
    assert algorithms() == functions
    assert all(hparams_class(name).__init__ is constructors[name] for name in NAMES)


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


def test_a_method_that_cannot_project_says_so(registered: ModuleType) -> None:
    class Hparams:
        null_space = True

    with pytest.raises(ConfigError, match=r"not for FT.*ROME"):
        algorithms()["FT"](None, None, [], Hparams())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"null_space_mode": "sovle"}, "solve"),
        ({"null_space_rule": "energi"}, "energy"),
        ({"null_space_l2": -1}, "null_space_l2"),
        ({"projector_path": "nowhere.safetensors"}, "nowhere"),
    ],
)
def test_a_wrong_setting_is_refused(
    registered: ModuleType, tiny_gpt2: TinyHostModel, keys: dict[str, Any], message: str
) -> None:
    model = tiny_gpt2.load()
    before = weights(model[0])
    with pytest.raises(alphaedit_plugin.AlphaEditError, match=message):
        run("MEMIT", tiny_gpt2, request_of(tiny_gpt2), model, **flag(tiny_gpt2, **keys))
    assert all(torch.equal(w, before[n]) for n, w in weights(model[0]).items())


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


def test_independent_edits_share_nothing(registered: ModuleType, tiny: TinyHostModel) -> None:
    """Host issue 613: an edit that was taken back must not shape the next one."""
    requests = request_of(tiny, 2)
    alone, _ = run("MEMIT", tiny, requests[1:], **flag(tiny))
    model = tiny.load()
    _, copies = run("MEMIT", tiny, requests[:1], model, **flag(tiny))
    with torch.no_grad():
        for name, weight in copies.items():
            model[0].get_parameter(name).copy_(weight)
    run("MEMIT", tiny, requests[1:], model, **flag(tiny))
    for name, weight in weights(alone).items():
        assert torch.equal(weight, weights(model[0])[name])


def test_models_share_no_state(registered: ModuleType, tiny: TinyHostModel) -> None:
    requests = request_of(tiny, 2)
    alone, _ = run("MEMIT", tiny, requests[1:], **flag(tiny))
    run("MEMIT", tiny, requests[:1], **flag(tiny))
    again, _ = run("MEMIT", tiny, requests[1:], **flag(tiny))
    for name, weight in weights(alone).items():
        assert torch.equal(weight, weights(again)[name])


def test_post_mode_is_there_for_memit(registered: ModuleType, tiny: TinyHostModel) -> None:
    post, _ = run("MEMIT", tiny, request_of(tiny), **flag(tiny, null_space_mode="post"))
    solve, _ = run("MEMIT", tiny, request_of(tiny), **flag(tiny, null_space_mode="solve"))
    assert max(leaks(tiny, "MEMIT", post).values()) < 1e-5
    assert any(not torch.equal(w, weights(solve)[n]) for n, w in weights(post).items())


def test_a_missing_host_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(host.sys, "modules", {})
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    with pytest.raises(host.HostError, match="git clone"):
        registration.register()
    monkeypatch.setenv("EASYEDIT_HOME", "/nowhere")
    with pytest.raises(host.HostError, match="/nowhere"):
        registration.register()
