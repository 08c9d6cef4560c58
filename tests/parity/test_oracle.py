"""The numbers of EasyEdit's own ROME, MEMIT and AlphaEdit, from cases stored on disk.

Cases are looked for in ``$ORACLE_DIR``; each is a folder with ``case.json``,
``expected.safetensors`` and ``model/``. They are not part of the repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.data.request import SLOT, FactToken, Request
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.activations import Part, Site, average, read
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates, locate
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import edit, relative, targets_of

REPOSITORY = Path(__file__).resolve().parents[2]
ORACLE_DIR = Path(os.environ.get("ORACLE_DIR", REPOSITORY.parent / "shared" / "oracle"))
TOLERANCE = {
    "second_moment": 1e-4,
    "projector": 1e-3,
    "target_z": 1e-3,
    "keys": 1e-4,
    "rome": 1e-2,
    "memit": 1e-2,
    "alphaedit": 1e-2,
}


class Case:
    """One stored case; everything this package makes of it is computed once, when asked for."""

    def __init__(self, folder: Path) -> None:
        self.spec: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.expected = load_file(folder / "expected.safetensors")
        self.hparams = self.spec["hparams"]
        self.layers = tuple(self.spec["layers"])
        self.lm = EditableModel.wrap(
            AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
            AutoTokenizer.from_pretrained(folder / "model"),
        )
        self.requests = [
            Request.parse(r["prompt"], r["subject"], r["target_new"]) for r in self.spec["requests"]
        ]
        self.contexts = ContextTemplates.of(self.spec["context_templates"], bare_apart=False)
        self.fact_token = FactToken(self.hparams["fact_token"])
        self.search = TargetSettings(
            steps=self.hparams["v_num_grad_steps"],
            lr=self.hparams["v_lr"],
            weight_decay=self.hparams["v_weight_decay"],
            kl_factor=self.hparams["kl_factor"],
            clamp_norm_factor=self.hparams["clamp_norm_factor"],
        )

    @cached_property
    def stored_moments(self) -> dict[int, SecondMoment]:
        """The stored second moments, so that an edit is judged by itself."""
        return {
            int(name.split(".")[1]): SecondMoment(tensor.double(), 1)
            for name, tensor in self.expected.items()
            if name.startswith("second_moment.")
        }

    @cached_property
    def second_moment(self) -> dict[int, Tensor]:
        corpus = [row.tolist() for row in self.expected["corpus_token_ids"]]
        found = collect_second_moments(self.lm, corpus, sorted(self.stored_moments))
        return {layer: moment.mean for layer, moment in found.items()}

    @cached_property
    def projectors(self) -> dict[int, Projector]:
        cut = Cut(CutRule.absolute, self.hparams["nullspace_threshold"])
        return {layer: Projector.fit(self.stored_moments[layer], cut) for layer in self.layers}

    @cached_property
    def projector(self) -> dict[int, Tensor]:
        return {layer: p.apply(torch.eye(p.d_in)) for layer, p in self.projectors.items()}

    @cached_property
    def target_z(self) -> dict[int, Tensor]:
        site = Site(self.layers[-1], Part.BLOCK)
        values = targets_of(
            self.lm, self.requests, self.contexts, site, self.fact_token, self.search
        ).values
        return dict(enumerate(values.unbind(dim=1)))

    @cached_property
    def keys(self) -> dict[int, Tensor]:
        sentences = [
            locate(
                self.lm.tokenizer,
                context.replace(SLOT, request.prompt),
                request.subject,
                self.fact_token,
            )
            for request in self.requests
            for context in self.contexts.flat
        ]
        sites = {layer: Site(layer, Part.KEY) for layer in self.layers}
        found = read(self.lm, list(sites.values()), sentences)
        return {layer: average(found[site], self.contexts.weights) for layer, site in sites.items()}

    @cached_property
    def rome(self) -> dict[int, Tensor]:
        first = self.requests[: self.spec["rome_requests"]]
        return self._edit(Rome(), (self.spec["rome_layer"],), [first])

    @cached_property
    def memit(self) -> dict[int, Tensor]:
        return self._edit(Memit(self.hparams["mom2_update_weight"]), self.layers, self._batches)

    @cached_property
    def alphaedit(self) -> dict[int, Tensor]:
        method = AlphaEdit(Memit(), self.projectors, ridge=self.hparams["L2"])
        return self._edit(method, self.layers, self._batches)

    @property
    def _batches(self) -> list[list[Request]]:
        size = self.spec["batch_size"]
        return [self.requests[i : i + size] for i in range(0, len(self.requests), size)]

    def _edit(
        self, method: BaseMethod, layers: tuple[int, ...], batches: list[list[Request]]
    ) -> dict[int, Tensor]:
        """The deltas of a run, as the module stores its weight; the model is put back."""
        recipe = Recipe(
            method, layers, self.contexts, self.stored_moments, self.fact_token, self.search
        )
        session = EditSession(self.lm, layers)
        for batch in batches:
            edit(session, recipe, batch)
        deltas = {
            layer: _as_stored(self.lm, layer, session.accumulated(layer)).clone()
            for layer in layers
        }
        session.reset()
        return deltas


def _as_stored(lm: EditableModel, layer: int, oriented: Tensor) -> Tensor:
    """``oriented (d_out, d_in)`` as the module keeps its weight."""
    return oriented.T if isinstance(lm.down_proj(layer), Conv1D) else oriented


load_case: Callable[[Path], Case] = cache(Case)


def _stored_quantities() -> Iterator[Any]:
    folders = sorted(path.parent for path in ORACLE_DIR.glob("*/case.json"))
    for folder in folders:
        with safe_open(folder / "expected.safetensors", framework="pt") as file:
            names = sorted(file.keys())
            for name in names:
                kind, number = name.split(".")[0], name.split(".")[-1]
                if name == "target_z":
                    columns = range(file.get_slice(name).get_shape()[1])
                    for i in columns:
                        yield pytest.param(folder, kind, i, name, id=f"{folder.name}-{name}[{i}]")
                elif kind in TOLERANCE:
                    yield pytest.param(folder, kind, int(number), name, id=f"{folder.name}-{name}")
    if not folders:
        skip = pytest.mark.skip(reason=f"no oracle case under {ORACLE_DIR}; set ORACLE_DIR")
        yield pytest.param(ORACLE_DIR, "", 0, "", id="none", marks=skip)


@pytest.mark.parametrize(("folder", "kind", "number", "name"), list(_stored_quantities()))
def test_equals_the_host(folder: Path, kind: str, number: int, name: str) -> None:
    case = load_case(folder)
    actual = getattr(case, kind)[number]
    expected = case.expected[name][:, number] if kind == "target_z" else case.expected[name]
    assert actual.shape == expected.shape
    assert relative(actual, expected) < TOLERANCE[kind]
