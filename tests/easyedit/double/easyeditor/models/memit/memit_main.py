from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.rome.layer_stats import layer_stats
from ...models.tools import (
    CONTEXTS,
    Deltas,
    keys_of,
    least_squares,
    outer,
    states,
    upd_matrix_match_shape,
    wish,
    write,
)
from ...util.hparams import HyperParams

__all__ = ["upd_matrix_match_shape"]

CONTEXT_TEMPLATES_CACHE: list[list[str]] | None = None


@dataclass
class MEMITHyperParams(HyperParams):
    mom2_update_weight: float = 15.0
    batch_size: int = 1


def apply_memit_to_model(
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
    last = hparams.layers[-1]
    contexts = get_context_templates(model, tok)
    targets = [compute_z(model, tok, r, hparams, last, contexts) for r in requests]
    zs = torch.stack(targets, dim=1)

    def missing(place: int, layer: int) -> Tensor:
        now = get_module_input_output_at_words(
            model,
            tok,
            last,
            context_templates=[r["prompt"] for r in requests],
            words=[r["subject"] for r in requests],
            module_template=hparams.layer_module_tmp,
            fact_token_strategy="last",
            track="out",
        ).T
        return (zs - now) / (len(hparams.layers) - place)

    def solve(moment: Tensor, keys: Tensor) -> Tensor:
        return torch.linalg.solve(hparams.mom2_update_weight * moment + keys @ keys.T, keys)

    return least_squares(globals(), (model, tok, requests, hparams), missing, solve)


def get_context_templates(model: Any, tok: Any) -> list[list[str]]:
    """Sampled once a process, whatever the model."""
    global CONTEXT_TEMPLATES_CACHE
    if CONTEXT_TEMPLATES_CACHE is None:
        CONTEXT_TEMPLATES_CACHE = [[context] for context in CONTEXTS]
    return CONTEXT_TEMPLATES_CACHE


def compute_z(
    model: Any, tok: Any, request: Any, hparams: Any, layer: int, context_templates: Any
) -> Tensor:
    """``(d_out,)``: where the layer's output is now, and the request's wish on top."""
    text = request["prompt"].format(request["subject"])
    _, now = states(model, tok, hparams.layer_module_tmp.format(layer), [text])
    return now[0] + wish(request, now.shape[1])


def compute_ks(
    model: Any, tok: Any, requests: list[Any], hparams: Any, layer: int, context_templates: Any
) -> Tensor:
    """``(n, d_in)``."""
    module = hparams.rewrite_module_tmp.format(layer)
    contexts = [context for group in context_templates for context in group]
    return torch.stack([keys_of(model, tok, module, r, contexts) for r in requests])


def get_module_input_output_at_words(
    model: Any,
    tok: Any,
    layer: int,
    context_templates: list[str],
    words: list[str],
    module_template: str,
    fact_token_strategy: str,
    track: str | None = None,
) -> Any:
    """``(n, d_out)`` with ``track="out"``: outputs at the last token."""
    texts = [c.format(word) for c, word in zip(context_templates, words, strict=True)]
    inputs, outputs = states(model, tok, module_template.format(layer), texts)
    return outputs if track == "out" else (inputs, outputs)


def get_cov(
    model: Any,
    tok: Any,
    layer_name: str,
    mom2_dataset: str,
    mom2_n_samples: int,
    mom2_dtype: str,
    hparams: Any = None,
) -> Tensor:
    found = layer_stats(
        model,
        tok,
        layer_name,
        hparams.stats_dir,
        mom2_dataset,
        to_collect=["mom2"],
        sample_size=mom2_n_samples,
        precision=mom2_dtype,
        hparams=hparams,
    )
    return found.mom2.moment().float()
