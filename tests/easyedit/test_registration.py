"""The plug-in's way into a host, shown on a small double of it; the real one is in tests/host."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import alphaedit_plugin
from alphaedit_plugin.common.errors import (
    ConfigError,
)
from alphaedit_plugin.easyedit.find_host import HostError, copies
from alphaedit_plugin.easyedit.host import algorithms as algorithms_of
from alphaedit_plugin.easyedit.host import methods_of
from alphaedit_plugin.easyedit.run import plugged_in
from tests.easyedit.conftest import (
    DOUBLE,
    FLAG,
    LAYERS,
    NAMES,
    Host,
    algorithms,
    asked,
    kept_keys,
    method_of,
    module_of,
    requests,
    same,
    without_host,
)


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


def unchanged(before: list[Any]) -> bool:
    now = everything()
    return len(before) == len(now) and all(
        (a is b) or (isinstance(a, tuple) and a[0] == b[0] and a[1] is b[1])
        for a, b in zip(before, now, strict=True)
    )


def test_registering_is_undone_exactly_and_twice_is_harmless(double: ModuleType) -> None:
    before = everything()
    alphaedit_plugin.unregister()
    assert unchanged(before)
    taking = alphaedit_plugin.register()
    assert taking == (*NAMES, "PRUNE", "RECT")
    assert algorithms()["MEMIT"].__wrapped__ is module_of("MEMIT").apply_memit_to_model
    once = everything()
    assert not unchanged(before)
    assert alphaedit_plugin.register() == taking
    assert unchanged(once)
    alphaedit_plugin.unregister()
    alphaedit_plugin.unregister()
    assert unchanged(before)


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
    assert "PMET" in alphaedit_plugin.register()


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


def test_editors_made_before_stay_plain(double: ModuleType, linear: Host) -> None:
    hparams = linear.hparams("MEMIT", model_name=(linear.model, linear.tokenizer))
    early, before = double.BaseEditor(hparams), linear.weights()
    alphaedit_plugin.register()
    hparams.null_space, early.model_name = True, "tiny"
    early.edit(**asked(1), sequential_edit=True)
    assert min(linear.leaks(before)) > 1e-3


@pytest.mark.parametrize("keyword", [True, False])
def test_an_unsupported_method_refuses_the_flag(registered: ModuleType, keyword: bool) -> None:
    flagged, plain = SimpleNamespace(null_space=True), SimpleNamespace()
    run, model = algorithms()["FT"], object()
    with pytest.raises(ConfigError, match=r"not for FT.*ROME.*PMET"):
        run(model, None, [], hparams=flagged) if keyword else run(model, None, [], flagged)
    assert run(model, None, [], hparams=plain) == (model, {})


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
            memit = methods_of(package)["MEMIT"]
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
        assert not any(hasattr(apply, "__wrapped__") for apply in known)


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
            memit = methods_of(other.__name__)["MEMIT"]
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
        memit = methods_of(package)["MEMIT"]
        hparams = memit.hparams_class()(**linear.settings("MEMIT", model_name=pair, **FLAG))
        editor = importlib.import_module(package).BaseEditor(hparams)
        rows = {key: values[number - 1 :] for key, values in asked(number).items()}
        editor.edit(**rows, sequential_edit=True)
        assert len(kept_keys(linear)) == number
    assert number == 2
