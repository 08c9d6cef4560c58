from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.memit.memit_main import compute_ks, get_cov
from ...models.memit.memit_main import compute_z as compute_one_z
from ...models.tools import (
    CONTEXTS,
    Deltas,
    least_squares,
    outer,
    states,
    upd_matrix_match_shape,
    write,
)
from ...util.hparams import HyperParams

__all__ = ["compute_ks", "get_cov", "upd_matrix_match_shape"]


@dataclass
class MEMITFEHyperParams(HyperParams):
    mom2_update_weight: float = 15.0
    batch_size: int = 1


def apply_memit_FE_to_model(
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
    deltas = execute_memit(model, tok, requests, hparams, cache_template)
    return model, write(globals(), model, outer(deltas), return_orig_weights)


def execute_memit(
    model: Any, tok: Any, requests: list[Any], hparams: Any, cache_template: str | None = None
) -> Deltas:
    zs = [compute_z(model, tok, r, hparams, hparams.layers, [CONTEXTS]) for r in requests]
    texts = [r["prompt"].format(r["subject"]) for r in requests]

    def missing(place: int, layer: int) -> Tensor:
        _, now = states(model, tok, hparams.layer_module_tmp.format(layer), texts)
        return torch.stack([z[layer] for z in zs], dim=1) - now.T

    def solve(moment: Tensor, keys: Tensor) -> Tensor:
        return torch.linalg.solve(hparams.mom2_update_weight * moment + keys @ keys.T, keys)

    return least_squares(globals(), (model, tok, requests, hparams), missing, solve)


def compute_z(
    model: Any, tok: Any, request: Any, hparams: Any, z_layers: list[int], context_templates: Any
) -> dict[int, Tensor]:
    """One target per layer."""
    return {
        layer: compute_one_z(model, tok, request, hparams, layer, context_templates)
        for layer in z_layers
    }
