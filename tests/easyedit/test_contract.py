"""The plug-in inside a host, shown on a small double of it; the real one is in tests/host."""

from __future__ import annotations

import gc
import importlib
import re
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor

import alphaedit_plugin
from alphaedit_plugin.common.errors import (
    AlphaEditError,
    ConfigError,
    NumericalError,
    ProjectorError,
    RequestError,
)
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.easyedit import HostError
from alphaedit_plugin.easyedit.host import algorithms as algorithms_of
from alphaedit_plugin.easyedit.host import copies, methods_of
from alphaedit_plugin.easyedit.host_editor import host_row
from alphaedit_plugin.easyedit.prune_rect import NATIVE
from alphaedit_plugin.easyedit.registration import MARK
from alphaedit_plugin.easyedit.run import plugged_in
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import save_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.easyedit.conftest import (
    DOUBLE,
    KINDS,
    LAYERS,
    Host,
    algorithms,
    asked,
    loaded,
    method_of,
    module_of,
    requests,
    without_host,
)

NAMES = ["ROME", "R-ROME", "MEMIT", "MEMIT-FE", "EMMET", "PMET"]
RANK_ONE = ("ROME", "R-ROME")
FLAG: dict[str, Any] = {"null_space": True, "null_space_l2": 1e-2}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def everything() -> list[Any]:
    """All that the plug-in may change in the host, by identity and in order."""
    batch = importlib.import_module("easyeditor.editors.batch_editor").BatchEditor
    editor = importlib.import_module("easyeditor.editors.editor").BaseEditor
    found: list[Any] = list(algorithms().items())
    found += [batch.__dict__["is_batchable_method"], editor.__init__]
    for name in NAMES:
        module, hparams_class = module_of(name), method_of(name).hparams_class()
        found += list(vars(module).items())
        found += [(key, hparams_class.__dict__[key]) for key in sorted(hparams_class.__dict__)]
    return found


def functions(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if callable(value)}


def unchanged(before: list[Any]) -> bool:
    now = everything()
    return len(before) == len(now) and all(
        (a is b) or (isinstance(a, tuple) and a[0] == b[0] and a[1] is b[1])
        for a, b in zip(before, now, strict=True)
    )


# Registering


def test_registering_is_undone_exactly(double: ModuleType) -> None:
    before = everything()
    alphaedit_plugin.register()
    assert not unchanged(before)
    alphaedit_plugin.unregister()
    assert unchanged(before)


def test_registering_or_leaving_twice_is_harmless(double: ModuleType) -> None:
    before = everything()
    alphaedit_plugin.unregister()
    assert unchanged(before)
    first, once = alphaedit_plugin.register(), everything()
    assert alphaedit_plugin.register() == first
    assert unchanged(once)
    alphaedit_plugin.unregister()
    alphaedit_plugin.unregister()
    assert unchanged(before)


def test_it_says_which_methods_take_the_flag(double: ModuleType) -> None:
    found = alphaedit_plugin.register()
    assert set(NAMES) <= set(found.supported)
    assert "FT" in found.unsupported
    assert not set(found.supported) & set(found.unsupported)


def test_a_host_that_lacks_a_part_is_left_as_it_was(
    double: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = algorithms().copy()
    constructor = method_of("ROME").hparams_class().__init__
    with monkeypatch.context() as patch:
        patch.delattr(module_of("PMET"), "PMETHyperParams")
        with pytest.raises((HostError, AttributeError), match="PMETHyperParams"):
            alphaedit_plugin.register()
    assert algorithms() == before
    assert method_of("ROME").hparams_class().__init__ is constructor
    assert "PMET" in alphaedit_plugin.register().supported


def test_the_shadowed_subpackages_do_not_matter(registered: ModuleType) -> None:
    assert registered.util is None
    assert algorithms()["MEMIT"].__wrapped__ is module_of("MEMIT").apply_memit_to_model


def test_nothing_of_the_double_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before, path = loaded(), list(sys.path)
    with without_host():
        monkeypatch.setenv("EASYEDIT_HOME", str(DOUBLE))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        alphaedit_plugin.register()
        assert str(DOUBLE) in sys.path
        assert "easyeditor.util.alg_dict" in loaded()
    assert loaded() == before
    assert sys.path == path


# The flag off


@pytest.mark.parametrize("method", NAMES)
def test_without_the_flag_nothing_changes(
    double: ModuleType, tiny_host: Callable[[str], Host], method: str
) -> None:
    plain, off = tiny_host("linear"), tiny_host("linear")
    expected = plain.run(method, 1)
    alphaedit_plugin.register()
    assert same(off.run(method, 1, null_space=False), expected)
    assert same(off.weights(), plain.weights())
    alphaedit_plugin.unregister()
    after = tiny_host("linear")
    after.run(method, 1)
    assert same(after.weights(), plain.weights())


# The flag on


@pytest.mark.parametrize("method", NAMES)
def test_every_delta_ends_in_the_null_space(
    registered: ModuleType, any_host: Host, method: str
) -> None:
    before = any_host.weights()
    any_host.run(method, 1, **FLAG)
    assert max(any_host.leaks(before)) < 1e-5
    others = before.keys() - set(any_host.names())
    assert all(torch.equal(any_host.model.get_parameter(n), before[n]) for n in others)


@pytest.mark.parametrize("method", NAMES)
def test_without_projection_it_does_not(double: ModuleType, linear: Host, method: str) -> None:
    before = linear.weights()
    linear.run(method, 1)
    assert min(linear.leaks(before)) > 1e-3


@pytest.mark.parametrize("mode", ["post", "solve"])
def test_a_batch_is_projected_in_either_mode(
    registered: ModuleType, any_host: Host, mode: str
) -> None:
    before = any_host.weights()
    any_host.run("MEMIT", 3, **FLAG, null_space_mode=mode)
    assert max(any_host.leaks(before)) < 1e-5


def test_the_closed_form_is_alphaedits(registered: ModuleType, any_host: Host) -> None:
    """The last layer's residual is what the host measured, its delta the published formula."""
    module, before = module_of("MEMIT"), any_host.weights()
    hparams = any_host.hparams("MEMIT")
    last = any_host.names()[-1]
    targets = torch.stack(
        [
            module.compute_z(any_host.model, any_host.tokenizer, r, hparams, LAYERS[-1], [["{}"]])
            for r in requests(2)
        ],
        dim=1,
    )
    any_host.run("MEMIT", 2, **FLAG)
    written = any_host.deltas(before)[last]
    with torch.no_grad():  # as in the loop: the first layer edited, the last not yet
        any_host.model.get_parameter(last).copy_(before[last])
    contexts = [["{}", "He said that. {}"]]
    any_host.tokenizer.padding_side = "right"
    keys = module.compute_ks(
        any_host.model, any_host.tokenizer, requests(2), hparams, LAYERS[-1], contexts
    ).T.double()
    now = module.get_module_input_output_at_words(
        any_host.model, any_host.tokenizer, LAYERS[-1],
        context_templates=[r["prompt"] for r in requests(2)],
        words=[r["subject"] for r in requests(2)],
        module_template=any_host.block, fact_token_strategy="last", track="out",
    ).T  # fmt: skip
    basis = any_host.used(last)
    null = torch.eye(len(basis)).double() - basis @ basis.T
    system = keys @ keys.T @ null + FLAG["null_space_l2"] * torch.eye(len(basis))
    expected = (targets - now).double() @ keys.T @ null @ torch.linalg.inv(system)
    assert (written - expected).norm() / expected.norm() < 1e-3


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("method", NAMES)
def test_one_layer_is_the_hosts_own_delta_projected(
    registered: ModuleType, tiny_host: Callable[[str], Host], kind: str, method: str
) -> None:
    plain, projected = tiny_host(kind), tiny_host(kind)
    plain.tokenizer.padding_side = "right"
    before = plain.weights()
    plain.run(method, 1, layers=[1])
    projected.run(method, 1, layers=[1], **FLAG, null_space_mode="post")
    (name, _) = plain.names()
    delta, basis = plain.deltas(before)[name], plain.used(name)
    expected = delta - delta @ basis @ basis.T
    assert (projected.deltas(before)[name] - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("ROME", "square-conv1d"),
        ("ROME", "square-linear"),
        ("MEMIT", "square-linear"),
        ("MEMIT", "square-conv1d"),
        ("EMMET", "square-linear"),
        ("EMMET", "square-conv1d"),
    ],
)
def test_a_square_update_is_written_the_right_way_round(
    registered: ModuleType, tiny_host: Callable[[str], Host], kind: str, method: str
) -> None:
    """Its shape does not say which side is ``d_in``: the host gets some of these wrong."""
    host, module = tiny_host(kind), module_of(method)
    host.tokenizer.padding_side = "right"
    before, hparams = host.weights(), host.hparams(method, layers=[1])
    execute = next(found for name, found in vars(module).items() if name.startswith("execute_"))
    given = requests(1)[0] if method in RANK_ONE else requests(1)
    ((name, (left, right)),) = execute(host.model, host.tokenizer, given, hparams).items()
    delta = torch.outer(right.flatten(), left.flatten()).double()
    expected = delta - delta @ host.used(name) @ host.used(name).T
    host.run(method, 1, layers=[1], **FLAG, null_space_mode="post")
    assert (host.deltas(before)[name] - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("method", ["MEMIT", "MEMIT-FE", "EMMET", "PMET"])
def test_later_layers_see_projected_weights(
    registered: ModuleType, any_host: Host, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, before, seen = module_of(method), any_host.weights(), []
    compute_ks = module.compute_ks

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.append(any_host.weights())
        return compute_ks(*args, **kwargs)

    monkeypatch.setattr(module, "compute_ks", noting)
    any_host.run(method, 1, **FLAG, null_space_mode="post")
    first, last = any_host.names()
    assert torch.equal(seen[1][first], any_host.weights()[first])
    assert torch.equal(seen[1][last], before[last])


def test_layers_may_come_in_any_order(registered: ModuleType, any_host: Host) -> None:
    before = any_host.weights()
    any_host.run("ROME", 1, layers=LAYERS[::-1], **FLAG)
    assert max(any_host.leaks(before)) < 1e-5


def test_several_modules_per_layer(registered: ModuleType, linear: Host) -> None:
    """PMET edits the attention's output, too; its weight is square."""
    templates = [linear.template, linear.block + ".self_attn.o_proj"]
    before = linear.weights()
    linear.run("PMET", 1, rewrite_module_tmps=templates, **FLAG)
    for template in templates:
        for layer in LAYERS:
            name = f"{template.format(layer)}.weight"
            delta = (linear.model.get_parameter(name) - before[name]).double()
            assert delta.norm() > 1e-3
            assert (delta @ linear.used(name)).norm() / delta.norm() < 1e-5


# What the host gets back


@pytest.mark.parametrize("method", NAMES)
def test_the_copy_restores_every_changed_weight(
    registered: ModuleType, any_host: Host, method: str
) -> None:
    """EMMET's too: it empties its copy unless told to keep it."""
    before = any_host.weights()
    copies = any_host.run(method, 1, **FLAG)
    assert copies.keys() == set(any_host.names())
    assert all(torch.equal(copy, before[name]) for name, copy in copies.items())


def test_the_double_empties_emmets_copy_as_the_host_does(double: ModuleType, linear: Host) -> None:
    assert linear.run("EMMET", 1) == {}


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("sequential", [True, False])
def test_the_hosts_editor_edits_and_restores(
    registered: ModuleType, linear: Host, method: str, sequential: bool
) -> None:
    before = linear.weights()
    hparams = linear.hparams(method, model_name=(linear.model, linear.tokenizer), **FLAG)
    metrics, model, _ = registered.BaseEditor.from_hparams(hparams).edit(
        **asked(2), sequential_edit=sequential
    )
    assert len(metrics) == 2
    assert model is linear.model
    if sequential:
        assert max(linear.leaks(before)) < 1e-5
    else:
        assert same(linear.weights(), before)


@pytest.mark.parametrize("method", ["MEMIT", "MEMIT-FE", "EMMET", "PMET"])
def test_batch_edit_goes_through_the_flag(
    registered: ModuleType, linear: Host, method: str
) -> None:
    before = linear.weights()
    pair = (linear.model, linear.tokenizer)
    hparams = linear.hparams(method, model_name=pair, batch_size=2, **FLAG)
    metrics, _, _ = registered.BaseEditor(hparams).batch_edit(**asked(4), sequential_edit=True)
    assert len(metrics) == 4
    assert max(linear.leaks(before)) < 1e-5


@pytest.mark.parametrize("order", ["before", "after", "alone"])
def test_every_copy_of_the_host_takes_the_flag(
    tiny_host: Callable[[str], Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """``EasyEdit.easyeditor``, where the folder above a clone is on the path, shares nothing.

    It is imported before the registration or after it, beside ``easyeditor`` or alone.
    """
    (tmp_path / "EasyEdit").symlink_to(DOUBLE, target_is_directory=True)
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    with without_host():
        sys.path.insert(0, str(tmp_path))
        if order != "alone":
            sys.path.insert(0, str(DOUBLE))
            importlib.import_module("easyeditor")
        if order == "after":
            alphaedit_plugin.register()
        other = importlib.import_module("EasyEdit.easyeditor")
        if order != "after":
            alphaedit_plugin.register()
        expected = [other.__name__] if order == "alone" else ["easyeditor", other.__name__]
        assert sorted(copies()) == sorted(expected)
        for package in expected:
            (memit,) = (m for m in methods_of(package) if m.name == "MEMIT")
            host = tiny_host("linear")
            before, pair = host.weights(), (host.model, host.tokenizer)
            hparams = memit.hparams_class()(**host.settings("MEMIT", model_name=pair, **FLAG))
            assert type(hparams).__module__.startswith(f"{package}.models")
            editor = importlib.import_module(package).BaseEditor(hparams)
            editor.edit(**asked(1), sequential_edit=True)
            assert max(host.leaks(before)) < 1e-5
        alphaedit_plugin.unregister()
        importlib.reload(other)  # nothing listens any longer
        known = [apply for package in expected for apply in algorithms_of(package).values()]
        assert not any(hasattr(apply, MARK) for apply in known)


def test_a_copy_that_a_script_imports_takes_the_flags_of_the_command_line(
    tiny_host: Callable[[str], Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "EasyEdit").symlink_to(DOUBLE, target_is_directory=True)
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    with without_host():
        sys.path[:0] = [str(tmp_path), str(DOUBLE)]
        importlib.import_module("easyeditor")
        alphaedit_plugin.register()
        with plugged_in({"null_space": True}):
            pass  # its flags end with it
        with plugged_in({"null_space": True}) as taken:
            other = importlib.import_module("EasyEdit.easyeditor")
            (memit,) = (m for m in methods_of(other.__name__) if m.name == "MEMIT")
            assert memit.hparams_class()(**tiny_host("linear").settings("MEMIT")).null_space
        assert taken == ["MEMITHyperParams"]
        plain = memit.hparams_class()(**tiny_host("linear").settings("MEMIT"))
        assert not getattr(plain, "null_space", False)
        alphaedit_plugin.unregister()
        assert not hasattr(memit.hparams_class().__init__, "__wrapped__")


def test_copies_of_the_host_share_what_they_know_of_a_model(
    registered: ModuleType, linear: Host, tmp_path: Path
) -> None:
    """An edit through one copy counts in the next through another."""
    (tmp_path / "EasyEdit").symlink_to(DOUBLE, target_is_directory=True)
    sys.path.insert(0, str(tmp_path))
    importlib.import_module("EasyEdit.easyeditor")
    pair = (linear.model, linear.tokenizer)
    for number, package in enumerate(copies(), 1):
        (memit,) = (m for m in methods_of(package) if m.name == "MEMIT")
        hparams = memit.hparams_class()(**linear.settings("MEMIT", model_name=pair, **FLAG))
        editor = importlib.import_module(package).BaseEditor(hparams)
        rows = {key: values[number - 1 :] for key, values in asked(number).items()}
        editor.edit(**rows, sequential_edit=True)
        assert len(kept_keys(linear)) == number
    assert number == 2


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("In {x: 1} the mother of {} is", "Ann"),
        ("In } the mother of {} is", "Ann"),
        ("The mother of {} is", "{x} Ann"),
        ("The mother of {subject} in {} is", "Ann"),
    ],
)
def test_braces_that_the_host_would_misread_are_refused(prompt: str, answer: str) -> None:
    with pytest.raises(RequestError, match="misreads braces"):
        host_row(Request.parse(prompt, "Bob", answer))


def test_editors_made_before_stay_plain(double: ModuleType, linear: Host) -> None:
    hparams = linear.hparams("MEMIT", model_name=(linear.model, linear.tokenizer))
    early, before = double.BaseEditor(hparams), linear.weights()
    alphaedit_plugin.register()
    hparams.null_space, early.model_name = True, "tiny"
    early.edit(**asked(1), sequential_edit=True)
    assert min(linear.leaks(before)) > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("fails", [False, True])
def test_padding_is_right_inside_and_put_back(
    registered: ModuleType, linear: Host, side: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, sides = module_of("MEMIT"), []
    compute_ks = module.compute_ks

    def noting(*args: Any, **kwargs: Any) -> Any:
        sides.append(linear.tokenizer.padding_side)
        if fails:
            raise RuntimeError("no keys")
        return compute_ks(*args, **kwargs)

    monkeypatch.setattr(module, "compute_ks", noting)
    linear.tokenizer.padding_side = side
    if fails:
        with pytest.raises(RuntimeError, match="no keys"):
            linear.run("MEMIT", 1, **FLAG)
    else:
        linear.run("MEMIT", 1, **FLAG)
    assert set(sides) == {"right"}
    assert linear.tokenizer.padding_side == side


@pytest.mark.parametrize("method", ["PRUNE", "RECT"])
@pytest.mark.parametrize("sequential", [True, False])
def test_our_own_algorithms_run_in_the_hosts_editor(
    registered: ModuleType, linear: Host, method: str, sequential: bool
) -> None:
    before, pair = linear.weights(), (linear.model, linear.tokenizer)
    kind = next(kind for kind in NATIVE if method == kind.ALGORITHM)
    settings = linear.settings(method, model_name=pair, batch_size=2, v_num_grad_steps=5)
    hparams = kind(**settings, **FLAG, mom2_update_weight=1.0)
    editor = registered.BaseEditor.from_hparams(hparams)
    metrics, _, _ = editor.batch_edit(**asked(4), sequential_edit=sequential)
    assert len(metrics) == 4
    if sequential:
        assert max(linear.leaks(before)) < 1e-4
    else:
        assert same(linear.weights(), before)


# When something is wrong


@pytest.mark.parametrize("poison", ["raise", "nan"])
@pytest.mark.parametrize("method", NAMES)
def test_a_failure_in_the_loop_changes_nothing(
    registered: ModuleType,
    any_host: Host,
    method: str,
    poison: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the second layer, when the first is written already."""
    module, before, calls = module_of(method), any_host.weights(), []
    name = "compute_v" if method in RANK_ONE else "compute_ks"
    real = getattr(module, name)

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        calls.append(any_host.weights())
        found = real(*args, **kwargs)
        if len(calls) < len(LAYERS):
            return found
        if poison == "raise":
            raise KeyboardInterrupt
        if isinstance(found, dict):
            return {key: value * torch.nan for key, value in found.items()}
        return found * torch.nan

    monkeypatch.setattr(module, name, poisoned)
    globals_ = functions(module)
    error = KeyboardInterrupt if poison == "raise" else (NumericalError, RuntimeError)
    with pytest.raises(error):
        any_host.run(method, 1, **FLAG, null_space_mode="post")
    assert not same(calls[1], before)
    assert same(any_host.weights(), before)
    assert functions(module) == globals_


@pytest.mark.parametrize("method", NAMES)
def test_the_modules_globals_are_back_after_an_edit(
    registered: ModuleType, linear: Host, method: str
) -> None:
    before = functions(module_of(method))
    linear.run(method, 1, **FLAG)
    assert functions(module_of(method)) == before


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("extra", [1, -1])
def test_a_host_that_writes_more_or_less_often_is_refused(
    registered: ModuleType,
    linear: Host,
    method: str,
    extra: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, before = module_of(method), linear.weights()
    execute = next(name for name in vars(module) if name.startswith("execute_"))
    real = getattr(module, execute)

    def changed(model: Any, *args: Any, **kwargs: Any) -> Any:
        updates = real(model, *args, **kwargs)
        if extra < 0:
            updates.popitem()
        else:
            weight = model.get_parameter(linear.names()[0])
            module.upd_matrix_match_shape(torch.zeros_like(weight), weight.shape)
        return updates

    monkeypatch.setattr(module, execute, changed)
    wanted = 2 * len(LAYERS)
    with pytest.raises(HostError, match=rf"wrote {wanted + extra} updates where {wanted} were"):
        linear.run(method, 1, **FLAG)
    assert same(linear.weights(), before)


def test_a_weight_that_the_model_lacks_is_named(registered: ModuleType, linear: Host) -> None:
    with pytest.raises(HostError, match=re.escape("model.layers.9.mlp.down_proj.weight")):
        linear.run("MEMIT", 1, layers=[9], **FLAG)


@pytest.mark.parametrize("keyword", [True, False])
def test_an_unsupported_method_refuses_the_flag(registered: ModuleType, keyword: bool) -> None:
    flagged, plain = SimpleNamespace(null_space=True), SimpleNamespace()
    run, model = algorithms()["FT"], object()
    with pytest.raises(ConfigError, match=r"not for FT.*ROME.*PMET"):
        run(model, None, [], hparams=flagged) if keyword else run(model, None, [], flagged)
    assert run(model, None, [], hparams=plain) == (model, {})


@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        ("MEMIT", {"null_space_mode": "sovle"}, "solve"),
        ("EMMET", {"null_space_mode": "solve"}, "EMMET takes post"),
        ("ROME", {"null_space_rule": "energi"}, "energy"),
        ("ROME", {"null_space_cut": -1.0}, "positive"),
        ("MEMIT", {"null_space_l2": 0.0}, "null_space_l2"),
        ("MEMIT", {"projector_path": "nowhere.safetensors"}, "nowhere"),
    ],
)
def test_a_wrong_setting_is_refused(
    registered: ModuleType, linear: Host, method: str, keys: dict[str, Any], message: str
) -> None:
    before = linear.weights()
    with pytest.raises(AlphaEditError, match=message):
        linear.run(method, 1, **FLAG | keys)
    assert same(linear.weights(), before)


@pytest.mark.parametrize("method", ["ROME", "MEMIT"])
def test_offloaded_weights_are_refused(registered: ModuleType, linear: Host, method: str) -> None:
    cpu_offload(linear.model, torch.device("cpu"))
    with pytest.raises(HostError, match=r"down_proj\.weight is offloaded"):
        linear.run(method, 1, **FLAG)


def test_a_stored_projector_keeps_its_cut(
    registered: ModuleType, linear: Host, tmp_path: Path
) -> None:
    lm = EditableModel.wrap(linear.model, linear.tokenizer)
    moment = SecondMoment(torch.diag(torch.arange(1.0, KINDS["linear"] + 1)), 1)
    made = {layer: Projector.fit(moment, Cut(CutRule.rank, 4)) for layer in LAYERS}
    save_projectors(lm, made, tmp_path / "p.safetensors")
    given = FLAG | {"projector_path": str(tmp_path / "p.safetensors")}
    before = linear.weights()
    with pytest.raises(ProjectorError, match=r"the cut rank=4 .* but energy=0\.9 is asked for"):
        linear.run("MEMIT", 1, **given, null_space_rule="energy", null_space_cut=0.9)
    assert same(linear.weights(), before)
    linear.run("MEMIT", 1, **given)
    assert not same(linear.weights(), before)


def test_a_copy_of_the_model_is_refused(registered: ModuleType, linear: Host) -> None:
    hparams = linear.hparams("ROME", **FLAG)
    with pytest.raises(ConfigError, match="copy"):
        algorithms()["ROME"](linear.model, linear.tokenizer, requests(), hparams, copy=True)


def test_arguments_may_be_given_in_any_way(
    registered: ModuleType, tiny_host: Callable[[str], Host]
) -> None:
    """By place or by the names that the host's function has, with the flag and without."""
    for keys in (FLAG, {}):
        hosts = [tiny_host("linear") for _ in range(2)]
        hparams = hosts[0].hparams("MEMIT", **keys)
        given = dict(zip(("model", "tok"), (hosts[0].model, hosts[0].tokenizer), strict=True))
        algorithms()["MEMIT"](**given, requests=requests(), hparams=hparams)
        _, copies = algorithms()["MEMIT"](
            hosts[1].model, hosts[1].tokenizer, requests(), hparams, False, True
        )
        assert same(hosts[0].weights(), hosts[1].weights())
        assert copies.keys() == set(hosts[1].names())


@pytest.mark.parametrize("layers", [[], [1, 1]])
def test_layers_are_checked(registered: ModuleType, linear: Host, layers: list[int]) -> None:
    with pytest.raises(ConfigError, match="at least one layer, and none twice"):
        linear.run("MEMIT", 1, layers=layers, **FLAG)


def test_targets_from_files_are_refused(registered: ModuleType, linear: Host) -> None:
    """The closed form listens to the search for targets, which they leave out."""
    hparams = linear.hparams("MEMIT", **FLAG)
    with pytest.raises(ConfigError, match="cache_template="):
        algorithms()["MEMIT"](
            linear.model, linear.tokenizer, requests(), hparams, cache_template="z_{}_{}_{}"
        )


def test_a_degenerate_cut_is_told_in_the_words_of_hparams(
    registered: ModuleType, linear: Host, caplog: pytest.LogCaptureFixture
) -> None:
    linear.run("ROME", 1, **FLAG, null_space_cut=1e9)
    assert f"{linear.names()[0]}: null_space_cut 1e+09 (absolute) makes" in caplog.text
    assert "null_space_rule: energy" in caplog.text


# YAML


@pytest.mark.parametrize("method", NAMES)
def test_the_hosts_own_yaml_takes_the_flag(
    registered: ModuleType, linear: Host, method: str, tmp_path: Path
) -> None:
    def load(**more: Any) -> Any:
        path = tmp_path / "settings.yaml"
        settings = linear.settings(method, **more)
        path.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        return method_of(method).hparams_class().from_hparams(str(path))

    hparams = load(null_space="true", null_space_cut="2e-2", projector_path="some.safetensors")
    assert hparams.null_space is True
    assert hparams.null_space_cut == 0.02
    assert hparams.projector_path == "some.safetensors"
    assert hparams.layers == LAYERS
    assert not hasattr(load(), "null_space")
    with pytest.raises(TypeError, match="nul_space"):
        load(nul_space="true")
    alphaedit_plugin.unregister()
    with pytest.raises(TypeError, match="null_space"):
        load(null_space="true")


# State


def test_sequential_edits_keep_earlier_keys_in_place(
    registered: ModuleType, tiny_host: Callable[[str], Host]
) -> None:
    """With a small ridge a second batch leaves the outputs at the first one's keys alone."""
    keys = {"layers": [1], "null_space": True, "null_space_l2": 1e-6}
    kept = tiny_host("linear")
    kept.run("MEMIT", slice(0, 1), **keys)
    between = kept.weights()
    name = kept.names()[0]
    module = module_of("MEMIT")
    key = module.compute_ks(
        kept.model, kept.tokenizer, requests(1), kept.hparams("MEMIT"), 1,
        [["{}", "He said that. {}"]],
    )[0].double()  # fmt: skip
    forgetful = tiny_host("linear")
    forgetful.model.load_state_dict(between)
    for host in (kept, forgetful):
        host.run("MEMIT", slice(1, 2), **keys)
    moved = [(h.deltas(between)[name] @ key).norm().item() for h in (kept, forgetful)]
    assert moved[0] < 1e-2 * moved[1]


def test_independent_edits_share_nothing(
    registered: ModuleType, tiny_host: Callable[[str], Host]
) -> None:
    """Host issue 613: an edit that was taken back must not shape the next one."""
    alone, second = tiny_host("linear"), tiny_host("linear")
    alone.run("MEMIT", slice(1, 2), **FLAG)
    copies = second.run("MEMIT", slice(0, 1), **FLAG)
    with torch.no_grad():
        for name, weight in copies.items():
            second.model.get_parameter(name).copy_(weight)
    second.run("MEMIT", slice(1, 2), **FLAG)
    assert same(second.weights(), alone.weights())


def test_an_edit_of_anothers_does_not_take_the_keys_away(
    registered: ModuleType, tiny_host: Callable[[str], Host]
) -> None:
    """Nor one of the host's own without the flag."""
    keys = {"layers": [1], "null_space": True, "null_space_l2": 1e-6}
    kept = tiny_host("linear")
    kept.run("MEMIT", slice(0, 1), **keys)
    (edit,) = kept_keys(kept)
    kept.run("MEMIT", slice(1, 2), layers=[1])
    with torch.no_grad():
        kept.model.get_parameter(kept.names()[0]).mul_(1 + 1e-4)
    kept.run("MEMIT", slice(2, 3), **keys)
    assert kept_keys(kept)[0] is edit
    assert len(kept_keys(kept)) == 2


def test_a_correction_lets_go_of_the_key_that_it_replaces(
    registered: ModuleType, tiny_host: Callable[[str], Host]
) -> None:
    """Else it would be held where the answer that is corrected has put it."""
    keys = {"layers": [1], "null_space": True, "null_space_l2": 1e-6}
    fresh, kept = tiny_host("linear"), tiny_host("linear")
    kept.run("MEMIT", slice(0, 1), **keys)
    name, before = kept.names()[0], kept.weights()
    (request,) = requests(1)
    correction = [request | {"target_new": requests(2)[1]["target_new"]}]
    algorithms()["MEMIT"](kept.model, kept.tokenizer, correction, kept.hparams("MEMIT", **keys))
    fresh.model.load_state_dict(before)  # a model that remembers no edit
    algorithms()["MEMIT"](fresh.model, fresh.tokenizer, correction, fresh.hparams("MEMIT", **keys))
    torch.testing.assert_close(kept.deltas(before)[name], fresh.deltas(before)[name])


def kept_keys(host: Host) -> list[Any]:
    """The edits of the first weight that count."""
    registration = algorithms()["MEMIT"]._alphaedit_registration
    return registration.states[host.model].histories[host.names()[0]].edits


def test_layers_may_change_between_edits(
    registered: ModuleType, tiny_host: Callable[[str], Host]
) -> None:
    """Each weight has a history of its own."""
    host = tiny_host("linear")
    host.run("MEMIT", slice(0, 1), **FLAG)
    host.run("MEMIT", slice(1, 2), **FLAG, layers=[1])
    assert len(kept_keys(host)) == 2


def test_models_share_no_state(registered: ModuleType, tiny_host: Callable[[str], Host]) -> None:
    alone, first, again = (tiny_host("linear") for _ in range(3))
    alone.run("MEMIT", slice(1, 2), **FLAG)
    first.run("MEMIT", slice(0, 1), **FLAG)
    again.run("MEMIT", slice(1, 2), **FLAG)
    assert same(again.weights(), alone.weights())


def test_a_failed_edit_leaves_no_keys_behind(
    registered: ModuleType, tiny_host: Callable[[str], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, failed = tiny_host("linear"), tiny_host("linear")
    alone.run("MEMIT", slice(1, 2), **FLAG)
    with monkeypatch.context() as patch:
        patch.setattr(module_of("MEMIT"), "outer", lambda deltas: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failed.run("MEMIT", slice(0, 1), **FLAG)
    failed.run("MEMIT", slice(1, 2), **FLAG)
    assert same(failed.weights(), alone.weights())


def test_state_goes_with_the_model(
    registered: ModuleType, tiny_host: Callable[[str], Host]
) -> None:
    host = tiny_host("linear")
    host.run("MEMIT", 1, **FLAG)
    model = weakref.ref(host.model)
    del host
    gc.collect()
    assert model() is None


def test_projectors_are_fitted_once_per_model(
    registered: ModuleType, linear: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    statistics = importlib.import_module("easyeditor.models.rome.layer_stats")
    real, read = statistics.layer_stats, []

    def noting(*args: Any, **kwargs: Any) -> Any:
        read.append(args[2])
        return real(*args, **kwargs)

    monkeypatch.setattr(statistics, "layer_stats", noting)
    linear.run("ROME", slice(0, 1), **FLAG)
    linear.run("ROME", slice(1, 2), **FLAG)
    assert len(read) == len(LAYERS)
    linear.run("ROME", slice(1, 2), **FLAG, null_space_cut=5e-2)
    assert len(read) == 2 * len(LAYERS)


def test_projectors_of_other_statistics_are_not_mixed_up(
    registered: ModuleType, linear: Host
) -> None:
    linear.run("ROME", 1, **FLAG)
    before = linear.weights()
    linear.run("ROME", 1, **FLAG, mom2_dataset="wikitext")
    for name, delta in linear.deltas(before).items():
        assert (delta @ linear.used(name, "wikitext")).norm() / delta.norm() < 1e-5


# Finding the host


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No host, installed or loaded."""
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    with without_host():
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        yield


@pytest.mark.parametrize("call", ["register", "unregister"])
def test_a_missing_host_is_explained(nowhere: None, call: str) -> None:
    with pytest.raises(HostError, match=r"git clone https://\S*EasyEdit.*EASYEDIT_HOME"):
        getattr(alphaedit_plugin, call)()


def test_a_home_without_the_host_is_named(
    nowhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EASYEDIT_HOME", str(tmp_path))
    with pytest.raises(HostError, match=re.escape(f"EASYEDIT_HOME is {tmp_path}")):
        alphaedit_plugin.register()


def test_a_host_that_lacks_a_package_says_what_to_install(
    nowhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "easyeditor" / "__init__.py"
    package.parent.mkdir()
    package.write_text(textwrap.dedent("import no_such_package_at_all"))
    monkeypatch.setenv("EASYEDIT_HOME", str(tmp_path))
    with pytest.raises(HostError, match=r"no_such_package_at_all.*alphaedit doctor"):
        alphaedit_plugin.register()
