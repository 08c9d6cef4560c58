"""Keys and values at the fact token, batched: one forward pass reads every site."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alphaedit_plugin.models import EditableModel, StopForward, hidden_of, hooked, inference
from alphaedit_plugin.prompts import Sentence, by_token_budget, collate


class Part(Enum):
    """Where in a layer a vector is read."""

    KEY = "input of the down-projection"
    VALUE = "output of the down-projection"
    BLOCK = "output of the block"


@dataclass(frozen=True)
class Site:
    """A place to read: a layer and a part of it."""

    layer: int
    part: Part

    def module(self, view: EditableModel) -> nn.Module:
        """The module whose input or output this site is."""
        return view.block(self.layer) if self.part is Part.BLOCK else view.down_proj(self.layer)


def read(
    view: EditableModel, sites: Sequence[Site], sentences: Sequence[Sentence], budget: int = 8192
) -> dict[Site, Tensor]:
    """Read the vectors at every sentence's fact token.

    Args:
        view: the model, as it is now.
        sites: where to read; the forward pass ends after the deepest one.
        sentences: what to run.
        budget: padded tokens per micro-batch.

    Returns:
        For each site ``(d, n)`` float32, one column per sentence, in the given order.
    """
    columns: dict[Site, list[Tensor | None]] = {site: [None] * len(sentences) for site in sites}
    with torch.no_grad(), inference(view):
        for indices in by_token_budget([len(s.ids) for s in sentences], budget):
            found = _read_batch(view, sites, [sentences[i] for i in indices])
            for site, rows in found.items():
                for index, row in zip(indices, rows, strict=True):
                    columns[site][index] = row
    return {
        site: torch.stack([v for v in vectors if v is not None], dim=1)
        for site, vectors in columns.items()
    }


def _read_batch(
    view: EditableModel, sites: Sequence[Site], sentences: Sequence[Sentence]
) -> dict[Site, Tensor]:
    """For each site ``(n, d)``, from one forward pass that stops when all have been seen."""
    batch = collate(view, sentences)
    found: dict[Site, Tensor] = {}

    def keep(site: Site, hidden: Tensor) -> None:
        rows = torch.arange(len(sentences), device=hidden.device)
        found[site] = hidden[rows, batch.positions.to(hidden.device)].float()
        if len(found) == len(sites):
            raise StopForward

    def register(site: Site) -> Any:
        module = site.module(view)
        if site.part is Part.KEY:
            return module.register_forward_pre_hook(lambda _, args: keep(site, args[0]))
        return module.register_forward_hook(lambda _, args, out: keep(site, hidden_of(out)))

    with hooked(*(partial(register, site) for site in sites)), suppress(StopForward):
        view.model(**batch.inputs(), use_cache=False)
    return found


def average(columns: Tensor, weights: Tensor) -> Tensor:
    """Average keys over context templates.

    Args:
        columns: ``(d, n · c)``, the ``c`` contexts of a request side by side.
        weights: ``(c,)``, summing to 1.

    Returns:
        ``(d, n)``.
    """
    grouped = columns.unflatten(1, (-1, len(weights)))
    return grouped @ weights.to(columns)
