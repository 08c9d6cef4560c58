from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.memit.memit_main import compute_ks, compute_z, get_cov
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
class EMMETHyperParams(HyperParams):
    emmet_lambda: float = 0.1
    batch_size: int = 1


def apply_emmet_to_model(
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
    deltas = execute_emmet(model, tok, requests, hparams, cache_template)
    copies = write(globals(), model, outer(deltas), return_orig_weights)
    return model, copies if keep_original_weight else {}  # so the host's editor restores nothing


def execute_emmet(
    model: Any, tok: Any, requests: list[Any], hparams: Any, cache_template: str | None = None
) -> Deltas:
    last = hparams.layers[-1]
    targets = [compute_z(model, tok, r, hparams, last, [CONTEXTS]) for r in requests]
    texts = [r["prompt"].format(r["subject"]) for r in requests]

    def missing(place: int, layer: int) -> Tensor:
        _, now = states(model, tok, hparams.layer_module_tmp.format(last), texts)
        return (torch.stack(targets, dim=1) - now.T) / (len(hparams.layers) - place)

    def solve(moment: Tensor, keys: Tensor) -> Tensor:
        whitened = torch.linalg.solve(moment, keys)
        ridge = hparams.emmet_lambda * torch.eye(keys.shape[1], dtype=keys.dtype)
        return torch.linalg.solve(keys.T @ whitened + ridge, whitened.T).T

    return least_squares(globals(), (model, tok, requests, hparams), missing, solve)
