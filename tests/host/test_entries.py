"""Every entry of the host's editor, for every method, with the flag and without."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import alphaedit_plugin
from tests.host.test_flag import NAMES, asked, flag, leaks, weights
from tests.host.tiny_host import TinyHostModel, main_module, pin_contexts, skip_without_host

skip_without_host()

BATCHABLE = [name for name in NAMES if name not in ("ROME", "R-ROME")]
WAYS = ("path", "pair")


def editor_of(host: ModuleType, tiny: TinyHostModel, method: str, way: str, **keys: Any) -> Any:
    """An editor that loads the model itself (path), or is given a ``(model, tok)`` pair."""
    pin_contexts(method)
    if way == "pair":
        keys["model_name"] = tiny.load()
    return host.BaseEditor.from_hparams(tiny.hparams(method, **keys))


def moved(editor: Any, before: dict[str, Tensor]) -> list[str]:
    """The weights that are not what they were."""
    return [name for name, w in weights(editor.model).items() if not torch.equal(w, before[name])]


def edited(tiny: TinyHostModel, method: str) -> list[str]:
    return tiny.weight_names(tuple(tiny.hparams(method).layers))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", NAMES)
def test_edit_restores_and_then_keeps(
    registered: ModuleType, tiny: TinyHostModel, method: str, way: str
) -> None:
    """A prompt alone, independent edits, and edits on top of each other."""
    editor = editor_of(registered, tiny, method, way, **flag(tiny))
    before, request = weights(editor.model), tiny.requests[0]
    metrics, _, _ = editor.edit(
        prompts=request["prompt"].replace("{}", request["subject"]),
        subject=request["subject"],
        target_new=request["target_new"],
        ground_truth="Rome",
        verbose=False,
    )
    assert "rewrite_acc" in metrics[0]["post"]
    assert moved(editor, before) == []
    metrics, _, copies = editor.edit(**asked(tiny, 2), sequential_edit=False)
    assert len(metrics) == 2
    assert list(copies) == edited(tiny, method)
    assert moved(editor, before) == []
    metrics, model, _ = editor.edit(**asked(tiny, 2), sequential_edit=True)
    assert model is editor.model
    assert all("rewrite_acc" in m["post"] for m in metrics)
    assert moved(editor, before) == edited(tiny, method)
    assert max(leaks(tiny, method, model).values()) < 1e-5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", BATCHABLE)
def test_batch_edit_restores_and_then_keeps(
    registered: ModuleType, tiny: TinyHostModel, method: str, way: str
) -> None:
    editor = editor_of(registered, tiny, method, way, **flag(tiny, batch_size=2))
    before = weights(editor.model)
    metrics, _, _ = editor.batch_edit(**asked(tiny, 3), sequential_edit=False)
    assert len(metrics) == 3
    assert moved(editor, before) == []
    metrics, model, _ = editor.batch_edit(**asked(tiny, 3), sequential_edit=True)
    assert len(metrics) == 3
    assert moved(editor, before) == edited(tiny, method)
    assert max(leaks(tiny, method, model).values()) < 1e-5


@pytest.mark.parametrize("method", ["ROME", "R-ROME"])
def test_the_hosts_own_refusal_of_batches_stays(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str
) -> None:
    editor = editor_of(registered, tiny_gpt2, method, "path", **flag(tiny_gpt2))
    with pytest.raises(AssertionError, match="can not batch edit"):
        editor.batch_edit(**asked(tiny_gpt2, 2))


@pytest.mark.parametrize("method", NAMES)
def test_edit_requests(registered: ModuleType, tiny_gpt2: TinyHostModel, method: str) -> None:
    """Requests as the host prepares them, handed in ready."""
    prepare = importlib.import_module("easyeditor.editors.utils")._prepare_requests
    given = asked(tiny_gpt2, 2)
    requests = prepare(
        given["prompts"], given["target_new"], given["ground_truth"], subject=given["subject"]
    )
    editor = editor_of(registered, tiny_gpt2, method, "path", **flag(tiny_gpt2))
    before = weights(editor.model)
    editor.edit_requests(requests, sequential_edit=False, verbose=False)
    assert moved(editor, before) == []
    metrics, model, _ = editor.edit_requests(requests, sequential_edit=True, verbose=False)
    assert [m["case_id"] for m in metrics] == [0, 1]
    assert moved(editor, before) == edited(tiny_gpt2, method)
    assert max(leaks(tiny_gpt2, method, model).values()) < 1e-5


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Also where both are nan, as the host's PMET leaves weights that it padded on the left."""
    return torch.equal(left.view(torch.int32), right.view(torch.int32))


@contextmanager
def plugged_in(there: bool) -> Iterator[None]:
    if there:
        alphaedit_plugin.register()
    try:
        yield
    finally:
        alphaedit_plugin.unregister()


@pytest.mark.parametrize("method", NAMES)
def test_flag_off_is_the_unregistered_host(
    host: ModuleType, tiny: TinyHostModel, method: str
) -> None:
    """Bit for bit, single and in batches, restored and kept; metrics, too."""

    def outcome(there: bool) -> list[Any]:
        found: list[Any] = []
        with plugged_in(there):
            for sequential in (False, True):
                torch.manual_seed(0)
                editor = editor_of(host, tiny, method, "path")
                metrics, _, _ = editor.edit(**asked(tiny, 2), sequential_edit=sequential)
                found += [editor.tok.padding_side, weights(editor.model)]
                found += [str(m["pre"]) + str(m["post"]) for m in metrics]
            if method in BATCHABLE:
                torch.manual_seed(0)
                editor = editor_of(host, tiny, method, "path", batch_size=2)
                editor.batch_edit(**asked(tiny, 3), sequential_edit=True)
                found.append(weights(editor.model))
        return found

    plain, registered = outcome(False), outcome(True)
    for expected, actual in zip(plain, registered, strict=True):
        if isinstance(expected, dict):
            assert all(same_bits(w, actual[name]) for name, w in expected.items())
        else:
            assert expected == actual


@pytest.mark.parametrize("method", NAMES)
def test_a_pair_is_edited_without_the_flag(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str
) -> None:
    """The unregistered host fails to evaluate it: tests/host/test_host_runs.py."""
    by_path = editor_of(registered, tiny_gpt2, method, "path")
    pair = editor_of(registered, tiny_gpt2, method, "pair")
    # The host chooses the side by the method's name, and only where it loads the tokenizer itself.
    pair.tok.padding_side = by_path.tok.padding_side
    pair.tok.pad_token_id = by_path.tok.pad_token_id
    for editor in (by_path, pair):
        torch.manual_seed(0)
        metrics, _, _ = editor.edit(**asked(tiny_gpt2, 2), sequential_edit=True)
        assert all("rewrite_acc" in m["post"] for m in metrics)
    expected = weights(by_path.model)
    assert all(same_bits(w, expected[name]) for name, w in weights(pair.model).items())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", NAMES)
def test_padding_is_right_at_the_subject(
    registered: ModuleType,
    tiny_gpt2: TinyHostModel,
    method: str,
    side: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the host or the user chose, which is what it is again afterwards."""
    module = main_module(method)
    name = "compute_u" if method in ("ROME", "R-ROME") else "compute_ks"
    real, sides = getattr(module, name), []

    def noting(model: Any, tok: Any, *args: Any, **kwargs: Any) -> Any:
        sides.append(tok.padding_side)
        return real(model, tok, *args, **kwargs)

    results = []
    for chosen in (side, "right"):
        editor = editor_of(registered, tiny_gpt2, method, "path", **flag(tiny_gpt2))
        editor.tok.padding_side = chosen
        with monkeypatch.context() as patch:
            patch.setattr(module, name, noting)
            torch.manual_seed(0)
            editor.edit(**asked(tiny_gpt2, 1), sequential_edit=True)
        assert editor.tok.padding_side == chosen
        results.append(weights(editor.model))
    assert set(sides) == {"right"}
    assert all(torch.equal(w, results[1][n]) for n, w in results[0].items())
