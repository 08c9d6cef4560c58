from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.memit.memit_main import get_cov
from ...models.tools import (
    CONTEXTS,
    keys_of,
    put_back,
    snapshot,
    states,
    upd_matrix_match_shape,
    wish,
    write,
)
from ...util.hparams import HyperParams


@dataclass
class PMETHyperParams(HyperParams):
    rewrite_module_tmps: list[str] | None = None
    mom2_update_weight: float = 15.0
    batch_size: int = 1


def apply_pmet_to_model(
    model: Any,
    tok: Any,
    requests: list[Any],
    hparams: Any,
    copy: bool = False,
    return_orig_weights: bool = False,
    cache_template: str | None = None,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, dict[str, Tensor]]:
    updates = execute_pmet(model, tok, requests, hparams, cache_template)
    return model, write(globals(), model, updates, return_orig_weights)


def execute_pmet(
    model: Any, tok: Any, requests: list[Any], hparams: Any, cache_template: str | None = None
) -> dict[str, Tensor]:
    """Several modules per layer; whole updates come back, oriented as the weights."""
    places = [(layer, tmp) for layer in hparams.layers for tmp in hparams.rewrite_module_tmps]
    names = [f"{tmp.format(layer)}.weight" for layer, tmp in places]
    before, updates = snapshot(model, names), {}
    texts = [r["prompt"].format(r["subject"]) for r in requests]
    for place, ((layer, tmp), name) in enumerate(zip(places, names, strict=True)):
        module = tmp.format(layer)
        keys = compute_ks(model, tok, requests, hparams, tmp, layer, [CONTEXTS])[tmp].T.double()
        width = states(model, tok, module, texts)[1].shape[1]
        wishes = torch.stack([wish(r, width) for r in requests], dim=1).double()
        residual = wishes / (len(places) - place) ** 0.5
        moment = get_cov(
            model, tok, module, hparams.mom2_dataset, hparams.mom2_n_samples, hparams.mom2_dtype,
            hparams=hparams,
        ).double()  # fmt: skip
        system = hparams.mom2_update_weight * moment + keys @ keys.T
        with torch.no_grad():
            weight = model.get_parameter(name)
            update = residual @ torch.linalg.solve(system, keys).T
            updates[name] = upd_matrix_match_shape(update, weight.shape)
            weight[...] = before[name] + updates[name].float()
    put_back(model, before)
    return updates


def compute_ks(
    model: Any,
    tok: Any,
    requests: list[Any],
    hparams: Any,
    rewrite_module_tmp: str,
    layer: int,
    context_templates: Any,
) -> dict[str, Tensor]:
    """``{template: (n, d_in)}``."""
    module = rewrite_module_tmp.format(layer)
    contexts = [context for group in context_templates for context in group]
    return {
        rewrite_module_tmp: torch.stack(
            [keys_of(model, tok, module, r, contexts) for r in requests]
        )
    }
