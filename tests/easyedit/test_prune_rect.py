"""PRUNE and RECT as algorithms of a host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch

import alphaedit_plugin
from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import (
    ConfigError,
)
from alphaedit_plugin.methods.base import METHODS, LayerProblem
from alphaedit_plugin.methods.memit import Memit
from tests.easyedit.conftest import (
    Host,
    algorithms,
    asked,
    ours,
    requests,
    same,
)


@pytest.mark.parametrize("method", ["PRUNE", "RECT"])
@pytest.mark.parametrize("sequential", [True, False])
def test_our_own_algorithms_run_in_the_hosts_editor(
    registered: ModuleType, linear: Host, method: str, sequential: bool
) -> None:
    before = linear.weights()
    editor = registered.BaseEditor.from_hparams(ours(linear, method, batch_size=2))
    metrics, _, _ = editor.batch_edit(**asked(4), sequential_edit=sequential)
    assert len(metrics) == 4
    if sequential:
        assert max(linear.leaks(before)) < 1e-4
    else:
        assert same(linear.weights(), before)
    with pytest.raises(ConfigError, match="remove copy="):
        algorithms()[method](linear.model, linear.tokenizer, requests(), editor.hparams, copy=True)


@pytest.mark.parametrize("null_space", [True, False])
@pytest.mark.parametrize("method", ["PRUNE", "RECT"])
def test_an_edit_between_two_that_stay_leaves_no_trace(
    registered: ModuleType, tiny_host: Callable[[str], Host], method: str, null_space: bool
) -> None:
    """PRUNE's restraint ends every batch, and is undone before the next."""
    alone, between = tiny_host("linear"), tiny_host("linear")
    for host in (alone, between):
        hparams = ours(host, method, null_space=null_space)
        apply = algorithms()[method]
        apply(host.model, host.tokenizer, requests(slice(0, 1)), hparams)
        if host is between:
            _, copies = apply(host.model, host.tokenizer, requests(slice(1, 2)), hparams)
            with torch.no_grad():
                for name, weight in copies.items():
                    host.model.get_parameter(name).copy_(weight)
        apply(host.model, host.tokenizer, requests(slice(2, 3)), hparams)
    assert same(between.weights(), alone.weights())


def test_any_base_method_of_ours_is_an_algorithm(double: ModuleType, linear: Host) -> None:
    """With hparams that have its own settings."""

    @dataclass(frozen=True)
    class Halved(Memit):
        share: float = 0.5

        def shape(self, delta: Delta, problem: LayerProblem) -> Delta:
            return Delta(self.share * delta.dense)

    METHODS.register("halved", Halved)
    try:
        assert "HALVED" in alphaedit_plugin.register()
        before, hparams = linear.weights(), ours(linear, "HALVED", share=0.0)
        algorithms()["HALVED"](linear.model, linear.tokenizer, requests(), hparams)
        assert same(linear.weights(), before)
        alphaedit_plugin.unregister()
        assert "HALVED" not in algorithms()
    finally:
        METHODS.unregister("halved")
