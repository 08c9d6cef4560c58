"""The null space inside the host's layer loop."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import cpu_offload

from alphaedit_plugin.common.errors import (
    AlphaEditError,
    NumericalError,
)
from alphaedit_plugin.easyedit.find_host import HostError
from tests.easyedit.conftest import (
    FLAG,
    LAYERS,
    NAMES,
    RANK_ONE,
    Host,
    algorithms,
    asked,
    functions,
    module_of,
    requests,
    same,
)


@pytest.mark.parametrize("method", NAMES)
def test_every_delta_ends_in_the_null_space(
    registered: ModuleType, any_host: Host, method: str
) -> None:
    """The copy restores what was changed, EMMET's too; the module's globals are as before."""
    before, globals_ = any_host.weights(), functions(module_of(method))
    copies = any_host.run(method, 1, **FLAG)
    assert max(any_host.leaks(before)) < 1e-5
    others = before.keys() - set(any_host.names())
    assert all(torch.equal(any_host.model.get_parameter(n), before[n]) for n in others)
    assert same(copies, {name: before[name] for name in any_host.names()})
    assert functions(module_of(method)) == globals_


@pytest.mark.parametrize("method", NAMES)
def test_without_projection_it_does_not(double: ModuleType, linear: Host, method: str) -> None:
    before = linear.weights()
    copies = linear.run(method, 1)
    assert min(linear.leaks(before)) > 1e-3
    assert (copies == {}) == (method == "EMMET")  # as in the host, which then restores nothing


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


@pytest.mark.parametrize(
    ("method", "keys", "options", "message"),
    [
        ("MEMIT", {"null_space_mode": "sovle"}, {}, "solve"),
        ("EMMET", {"null_space_mode": "solve"}, {}, "EMMET takes post"),
        ("ROME", {"null_space_cut": -1.0}, {}, "positive"),
        ("MEMIT", {"projector_path": "nowhere.safetensors"}, {}, "nowhere"),
        ("MEMIT", {"layers": [9]}, {}, r"model\.layers\.9\.mlp\.down_proj\.weight"),
        ("MEMIT", {"layers": []}, {}, "at least one layer, and none twice"),
        ("MEMIT", {"layers": [1, 1]}, {}, "at least one layer, and none twice"),
        ("ROME", {}, {"copy": True}, "copy="),
        # The closed form listens to the search for targets, which files replace.
        ("MEMIT", {}, {"cache_template": "z_{}_{}_{}"}, "cache_template="),
    ],
)
def test_what_cannot_be_projected_is_refused(
    registered: ModuleType, linear: Host, method: str, keys: Any, options: Any, message: str
) -> None:
    before, hparams = linear.weights(), linear.hparams(method, **FLAG | keys)
    with pytest.raises(AlphaEditError, match=message):
        algorithms()[method](linear.model, linear.tokenizer, requests(), hparams, **options)
    assert same(linear.weights(), before)


@pytest.mark.parametrize("method", ["ROME", "MEMIT"])
def test_offloaded_weights_are_refused(registered: ModuleType, linear: Host, method: str) -> None:
    cpu_offload(linear.model, torch.device("cpu"))
    with pytest.raises(HostError, match=r"down_proj\.weight is offloaded"):
        linear.run(method, 1, **FLAG)
