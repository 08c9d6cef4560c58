"""What the edits of one model share: projectors, and keys while their edit is in the weight."""

from __future__ import annotations

import copy
import gc
import importlib
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import alphaedit_plugin
from alphaedit_plugin.common.errors import (
    ProjectorError,
)
from alphaedit_plugin.easyedit.registration import STATE
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import save_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.easyedit.conftest import (
    FLAG,
    KINDS,
    LAYERS,
    Host,
    algorithms,
    kept_keys,
    module_of,
    ours,
    requests,
    same,
)


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


def test_keys_are_shared_by_all_methods(registered: ModuleType, linear: Host) -> None:
    """They belong to the weights, whatever wrote them."""
    algorithms()["RECT"](linear.model, linear.tokenizer, requests(), ours(linear, "RECT"))
    linear.run("MEMIT", slice(1, 2), **FLAG)
    assert len(kept_keys(linear)) == 2
    again = ours(linear, "RECT")
    algorithms()["RECT"](linear.model, linear.tokenizer, requests(slice(2, 3)), again)
    assert len(kept_keys(linear)) == 3
    run = vars(linear.model)[STATE].runs["RECT"]
    assert run.session.past(LAYERS[0]).count == 3


@pytest.mark.parametrize("method", ["MEMIT", "RECT"])
def test_state_goes_with_the_model(
    registered: ModuleType, tiny_host: Callable[[str], Host], method: str
) -> None:
    """A copy of it has none, nor has it one after `unregister`."""
    host = tiny_host("linear")
    hparams = ours(host, "RECT") if method == "RECT" else host.hparams("MEMIT", **FLAG)
    algorithms()[method](host.model, host.tokenizer, requests(), hparams)
    assert vars(host.model)[STATE].histories
    assert not vars(copy.deepcopy(host.model))[STATE].histories
    kept = tiny_host("linear")
    kept.run("MEMIT", 1, **FLAG)
    model = weakref.ref(host.model)
    del host, hparams
    gc.collect()
    assert model() is None
    alphaedit_plugin.unregister()
    assert STATE not in vars(kept.model)


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


def test_a_degenerate_cut_is_told_in_the_words_of_hparams(
    registered: ModuleType, linear: Host, caplog: pytest.LogCaptureFixture
) -> None:
    linear.run("ROME", 1, **FLAG, null_space_cut=1e9)
    assert f"{linear.names()[0]}: null_space_cut 1e+09 (absolute) makes" in caplog.text
    assert "null_space_rule: energy" in caplog.text
