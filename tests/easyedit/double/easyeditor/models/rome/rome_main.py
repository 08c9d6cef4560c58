from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...models.tools import keys_of, rank_one, upd_matrix_match_shape, wish, write
from ...util.hparams import HyperParams

__all__ = ["upd_matrix_match_shape"]


@dataclass
class ROMEHyperParams(HyperParams):
    fp16: bool = False


def apply_rome_to_model(
    model: Any,
    tok: Any,
    request: list[Any],
    hparams: Any,
    copy: bool = False,
    return_orig_weights: bool = False,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, dict[str, Tensor]]:
    deltas = execute_rome(model, tok, request[0], hparams)
    updates = {name: u[:, None] @ v[None, :] for name, (u, v) in deltas.items()}
    return model, write(globals(), model, updates, return_orig_weights)


def execute_rome(
    model: Any, tok: Any, request: Any, hparams: Any
) -> dict[str, tuple[Tensor, Tensor]]:
    return rank_one(globals(), model, tok, request, hparams)


def compute_u(
    model: Any, tok: Any, request: Any, hparams: Any, layer: int, context_templates: list[str]
) -> Tensor:
    module = hparams.rewrite_module_tmp.format(layer)
    key = keys_of(model, tok, module, request, context_templates)
    return key / key.norm()


def compute_v(
    model: Any,
    tok: Any,
    request: Any,
    hparams: Any,
    layer: int,
    left_vector: Tensor,
    context_templates: list[str],
) -> Tensor:
    return wish(request, model.config.hidden_size)
