"""Sessions with something in them, and what a patch of them looks like from inside."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.tensor_file import read_tensors, write_tensors
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.editing.entry import Search
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import REQUESTS, build_model

LAYERS = [1, 3]
RICH = Request(
    "The  mother\ttongue of {} is", "Zoë ✨ مريم", " 北京", "French", ("Whose?", "Who\nis it?"),
    {"nearby": Probe(("Is it?", "Or not?"), ("yes", "no"), (("Yes.", "ja"), ()))},
    {"hop": Probe(("So?",), ("so",))},
    ("Français",), ("Zoë is",), ("Ada speaks",), ("French is a language.",), "17", "P103",
)  # fmt: skip
LEAST_SQUARES = {"name": "memit", "least_squares": True, "one_by_one": False, "null_space": False}


def fresh(dtype: torch.dtype = torch.float32, family: str = "gpt2", seed: int = 0) -> EditableModel:
    """A model that is the same on every call."""
    return EditableModel.wrap(build_model(family, 300, seed).to(dtype), None)


def factored(lm: EditableModel, layer: int, seed: int, rank: int = 2) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    d_out, d_in = lm.weight(layer).shape
    left = torch.randn(d_out, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, d_in, generator=generator, dtype=torch.float64).T  # as others lay it
    return Delta(0.1 * left, right)


def dense(lm: EditableModel, layer: int, seed: int) -> Delta:
    return Delta(factored(lm, layer, seed).dense)


def sparse(lm: EditableModel, layer: int, seed: int) -> Delta:
    full = dense(lm, layer, seed).left
    return Delta(torch.where(full.abs() > full.abs().median(), full, 0))


FORMS = {"factored": factored, "dense": dense, "sparse": sparse}


def edit(
    session: EditSession, *seeds: int, form: str = "factored", requests: Sequence[Request] = ()
) -> None:
    """One entry per seed, with two requests each, on every layer."""
    for seed in seeds:
        with session.batch():
            keys = {}
            for layer in session.layers:
                session.write(layer, FORMS[form](session.lm, layer, seed + 100 * layer))
                keys[layer] = factored(session.lm, layer, seed).right.float()  # type: ignore[union-attr]
            asked = requests or [RICH, REQUESTS[seed % 4]]
            searches = [Search(0.1 * (n + seed), 1 / (n + 2)) for n in range(len(asked))]
            session.commit(asked, keys, LEAST_SQUARES, searches=searches)


def parts_of(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's tensors and content, to be changed and written again with `forge`."""
    tensors, content = read_tensors(path)
    return tensors, copy.deepcopy(content)


def forge(path: Path, tensors: dict[str, Tensor], content: Any) -> None:
    """What an attacker can do: a file with anything in it."""
    write_tensors(path, tensors, content)
