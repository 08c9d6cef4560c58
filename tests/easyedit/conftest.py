"""The contract double of EasyEdit, imported for one test at a time, and tiny models for it.

The double stands in even where the real host is: that one has tests of its own in tests/host.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from alphaedit_plugin.easyedit.find_host import copies
from alphaedit_plugin.easyedit.host import HOST_METHODS, HostMethod
from alphaedit_plugin.easyedit.prune_rect import hparams_class
from alphaedit_plugin.easyedit.registration import STATE
from tests.tiny import REQUESTS, fast_tokenizer

DOUBLE = Path(__file__).parent / "double"
BY_NAME = {method.name: method for method in HOST_METHODS}
LAYERS = [1, 2]
WIDTH = 32
NAMES = list(BY_NAME)
RANK_ONE = ("ROME", "R-ROME")
FLAG: dict[str, Any] = {"null_space": True, "null_space_l2": 1e-2}

# How the edited weight is stored, and whether its shape says so.
KINDS = {"linear": 96, "conv1d": 96, "square-linear": WIDTH, "square-conv1d": WIDTH}


@contextmanager
def without_host() -> Iterator[None]:
    """No module of any ``easyeditor`` is loaded in the block, nor left behind by it."""
    kept = {name: sys.modules.pop(name) for name in loaded()}
    path, finders = list(sys.path), list(sys.meta_path)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(kept)
        sys.path[:], sys.meta_path[:] = path, finders
        importlib.invalidate_caches()


def loaded() -> list[str]:
    """The host's modules, of whatever host."""
    return [name for name in sys.modules if name.partition(".")[0] in ("easyeditor", "EasyEdit")]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The double's package, freshly imported; gone afterwards, with whatever was registered."""
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    with without_host():
        sys.path.insert(0, str(DOUBLE))
        yield importlib.import_module("easyeditor")


@pytest.fixture
def registered(double: ModuleType) -> ModuleType:
    importlib.import_module("alphaedit_plugin").register()
    return double


@dataclass
class Host:
    """A tiny model with everything that the double needs to edit it.

    Attributes:
        kind: of the edited weights.
        model: to be edited.
        tokenizer: pads on the left, as the host leaves it for some methods.
    """

    kind: str
    model: Any
    tokenizer: Any

    @property
    def flipped(self) -> bool:
        """Whether weights are stored ``(d_in, d_out)``."""
        return "conv1d" in self.kind

    @property
    def block(self) -> str:
        return "transformer.h.{}" if self.flipped else "model.layers.{}"

    @property
    def template(self) -> str:
        return self.block + (".mlp.c_proj" if self.flipped else ".mlp.down_proj")

    def names(self) -> list[str]:
        return [f"{self.template.format(layer)}.weight" for layer in LAYERS]

    def settings(self, method: str, **more: Any) -> dict[str, Any]:
        """What the host's YAML file would hold."""
        if method == "PMET":
            more.setdefault("rewrite_module_tmps", [self.template])
        return {
            "alg_name": method,
            "model_name": "tiny",
            "device": "cpu",
            "layers": list(LAYERS),
            "rewrite_module_tmp": self.template,
            "layer_module_tmp": self.block,
            "stats_dir": "nowhere",
            "mom2_dataset": "wikipedia",
            "mom2_n_samples": 100,
            "mom2_dtype": "float32",
            **more,
        }

    def hparams(self, method: str, **more: Any) -> Any:
        return BY_NAME[method].hparams_class()(**self.settings(method, **more))

    def run(self, method: str, count: int | slice = 1, **more: Any) -> dict[str, Tensor]:
        """Apply ``method`` as the host's editor does; returns the copy of the weights."""
        _, kept = algorithms()[method](
            self.model,
            self.tokenizer,
            requests(count),
            self.hparams(method, **more),
            copy=False,
            return_orig_weights=True,
            keep_original_weight=False,
        )
        return kept

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def deltas(self, before: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the edited weights gained, ``(d_out, d_in)``, float64."""
        found = {n: self.model.get_parameter(n).detach() - before[n] for n in self.names()}
        return {n: (d.T if self.flipped else d).double() for n, d in found.items()}

    def used(self, name: str, dataset: str = "wikipedia") -> Tensor:
        """``U (d_in, r)``: the directions that the double's statistics say old keys use."""
        statistics = importlib.import_module(f"{copies()[0]}.models.rome.layer_stats")
        module = name.removesuffix(".weight")
        found = statistics.layer_stats(
            self.model, self.tokenizer, module, "nowhere", dataset, ["mom2"]
        )
        values, vectors = torch.linalg.eigh(found.mom2.moment().double())
        return vectors[:, values > 2e-2]

    def leaks(self, before: dict[str, Tensor]) -> list[float]:
        """``‖ΔU‖ / ‖Δ‖`` of each edited weight; none may be zero."""
        found = self.deltas(before)
        assert all(delta.norm() > 1e-3 for delta in found.values())
        return [((d @ self.used(n)).norm() / d.norm()).item() for n, d in found.items()]


@pytest.fixture(scope="session")
def _models() -> dict[str, tuple[Any, Any]]:
    return {kind: _build(kind) for kind in KINDS}


@pytest.fixture
def tiny_host(_models: dict[str, tuple[Any, Any]]) -> Callable[[str], Host]:
    """A fresh `Host` of any kind."""
    return lambda kind: Host(kind, *copy.deepcopy(_models[kind]))


@pytest.fixture(params=KINDS)
def any_host(request: pytest.FixtureRequest, tiny_host: Callable[[str], Host]) -> Host:
    return tiny_host(request.param)


@pytest.fixture
def linear(tiny_host: Callable[[str], Host]) -> Host:
    return tiny_host("linear")


def _build(kind: str) -> tuple[Any, Any]:
    tokenizer = fast_tokenizer("left")
    shape = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if "conv1d" in kind:
            gpt2 = GPT2Config(
                n_positions=64, n_embd=WIDTH, n_layer=4, n_head=4, n_inner=KINDS[kind],
                initializer_range=0.3, **shape,
            )  # fmt: skip
            return GPT2LMHeadModel(gpt2).eval(), tokenizer
        llama = LlamaConfig(
            hidden_size=WIDTH, intermediate_size=KINDS[kind], num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64,
            initializer_range=0.3, **shape,
        )  # fmt: skip
        return LlamaForCausalLM(llama).eval(), tokenizer


def requests(count: int | slice = 1) -> list[dict[str, str]]:
    """Some of the suite's requests, as the host has them."""
    chosen = REQUESTS[count] if isinstance(count, slice) else REQUESTS[:count]
    return [{"prompt": r.prompt, "subject": r.subject, "target_new": r.target_new} for r in chosen]


def asked(count: int) -> dict[str, list[str]]:
    """The same as arguments of the host's editor."""
    chosen = requests(count)
    return {
        "prompts": [r["prompt"].format(r["subject"]) for r in chosen],
        "target_new": [r["target_new"] for r in chosen],
        "subject": [r["subject"] for r in chosen],
    }


def algorithms() -> dict[str, Any]:
    return importlib.import_module("easyeditor.util.alg_dict").ALG_DICT


def module_of(method: str) -> ModuleType:
    return BY_NAME[method].load()


def method_of(name: str) -> HostMethod:
    return BY_NAME[name]


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def functions(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if callable(value)}


def ours(host: Host, method: str, **keys: Any) -> Any:
    """Hparams of a method of ours, with which a tiny model is edited at once."""
    kind: Any = hparams_class(method.lower())
    small = {"v_num_grad_steps": 5, "mom2_update_weight": 1.0, **FLAG, **keys}
    return kind(**host.settings(method, model_name=(host.model, host.tokenizer), **small))


def kept_keys(host: Host) -> list[Any]:
    """The edits of the first weight that count."""
    found: list[Any] = vars(host.model)[STATE].histories[host.names()[0]].edits
    return found
