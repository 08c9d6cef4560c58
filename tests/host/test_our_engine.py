"""``null_space_engine: native``: ROME and MEMIT by our engine, behind the real host's entries."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import alphaedit_plugin
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.easyedit.find_host import HostError
from alphaedit_plugin.easyedit.our_engine import OurAlgorithm
from alphaedit_plugin.methods import memit
from alphaedit_plugin.methods.least_squares import least_squares
from tests.host.test_entries import edited, editor_of, moved
from tests.host.test_flag import asked, flag, leaks, run, weights
from tests.host.tiny_host import TinyHostModel, skip_without_host

skip_without_host()

NATIVE = {"null_space_engine": "native"}
ONES = ["ROME", "MEMIT"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each call of our engine had."""
    sizes: list[int] = []
    apply = OurAlgorithm.apply

    def counted(self: OurAlgorithm, state: Any, flag: Any, call: Any) -> Any:
        sizes.append(len(call.requests))
        return apply(self, state, flag, call)

    monkeypatch.setattr(OurAlgorithm, "apply", counted)
    return sizes


def changes(tiny: TinyHostModel, method: str, model: Any) -> list[Tensor]:
    before, after = weights(tiny.load()[0]), weights(model)
    return [after[name] - before[name] for name in edited(tiny, method)]


@pytest.mark.parametrize("null_space", [False, True])
@pytest.mark.parametrize("method", ONES)
def test_it_writes_what_the_host_writes(
    registered: ModuleType, tiny: TinyHostModel, calls: list[int], method: str, null_space: bool
) -> None:
    """Two edits on one another, by one engine, by the other, and one by each."""
    keys = flag(tiny, null_space=null_space, mom2_adjustment=True)
    found = {}
    for engines in (("host", "host"), ("native", "native"), ("host", "native")):
        model = tiny.load()
        for row, engine in zip(tiny.requests, engines, strict=False):
            run(method, tiny, [dict(row)], model, **keys, null_space_engine=engine)
        found[engines] = changes(tiny, method, model[0])
        if null_space:
            assert max(leaks(tiny, method, model[0]).values()) < 1e-5
    assert calls == [1, 1, 1]
    expected = found.pop(("host", "host"))
    for ours in found.values():
        for a, b in zip(expected, ours, strict=True):
            assert (a - b).norm() / a.norm() < 1e-2


@pytest.mark.parametrize("way", ["path", "pair"])
@pytest.mark.parametrize("null_space", [False, True])
@pytest.mark.parametrize("method", ONES)
def test_every_entry_restores_and_keeps_as_the_host_does(
    registered: ModuleType,
    tiny_gpt2: TinyHostModel,
    calls: list[int],
    method: str,
    null_space: bool,
    way: str,
) -> None:
    tiny = tiny_gpt2
    keys = flag(tiny, null_space=null_space, **NATIVE)
    editor = editor_of(registered, tiny, method, way, **keys)
    before = weights(editor.model)
    metrics, _, copies = editor.edit(**asked(tiny, 2), sequential_edit=False)
    assert all("rewrite_acc" in m["post"] for m in metrics)
    assert set(edited(tiny, method)) <= set(copies)
    assert moved(editor, before) == []
    _, model, _ = editor.edit(**asked(tiny, 2), sequential_edit=True)
    assert model is editor.model
    assert moved(editor, before) == edited(tiny, method)
    assert calls == [1, 1, 1, 1]


def test_a_batch_is_searched_together(
    registered: ModuleType, tiny: TinyHostModel, calls: list[int]
) -> None:
    editor = editor_of(registered, tiny, "MEMIT", "path", **flag(tiny, batch_size=3, **NATIVE))
    before = weights(editor.model)
    editor.batch_edit(**asked(tiny, 3), sequential_edit=False)
    assert moved(editor, before) == []
    editor.batch_edit(**asked(tiny, 3), sequential_edit=True)
    assert calls == [3, 3]
    assert max(leaks(tiny, "MEMIT", editor.model).values()) < 1e-5


def test_register_sets_it_for_hparams_without_the_key(
    host: ModuleType, tiny_gpt2: TinyHostModel, calls: list[int]
) -> None:
    with pytest.raises(ConfigError, match="natve"):
        alphaedit_plugin.register(engine="natve")
    alphaedit_plugin.register(engine="native")
    try:
        for keys in ({}, {"null_space_engine": "host"}, NATIVE):
            run("MEMIT", tiny_gpt2, [dict(tiny_gpt2.requests[0])], **keys)
        assert calls == [1, 1]
        run("R-ROME", tiny_gpt2, [dict(tiny_gpt2.requests[0])])  # is the host's in any case
        with pytest.raises(ConfigError, match="native is for ROME and MEMIT"):
            run("R-ROME", tiny_gpt2, [dict(tiny_gpt2.requests[0])], **NATIVE)
    finally:
        alphaedit_plugin.unregister()


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"v_loss_layer": 1}, ConfigError),
        ({"rewrite_module_tmp": "transformer.h.{}.attn.c_proj"}, HostError),
    ],
)
def test_hparams_that_mean_something_else_to_the_host_are_refused(
    registered: ModuleType, tiny_gpt2: TinyHostModel, keys: dict[str, Any], error: type[Exception]
) -> None:
    model = tiny_gpt2.load()
    before = weights(model[0])
    with pytest.raises(error, match="null_space_engine: native"):
        run("MEMIT", tiny_gpt2, [dict(tiny_gpt2.requests[0])], model, **NATIVE, **keys)
    assert all(torch.equal(w, before[n]) for n, w in weights(model[0]).items())


def test_a_failure_halfway_changes_no_weight(
    registered: ModuleType, tiny_gpt2: TinyHostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def solve(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("broken")
        return least_squares(*args)

    monkeypatch.setattr(memit, "least_squares", solve)
    model = tiny_gpt2.load()
    before = weights(model[0])
    with pytest.raises(RuntimeError, match="broken"):
        run("MEMIT", tiny_gpt2, [dict(tiny_gpt2.requests[0])], model, **NATIVE)
    assert all(torch.equal(w, before[n]) for n, w in weights(model[0]).items())
