"""What the double's methods share. ``here`` is the calling module's ``globals()``: as in the host,
its helpers are looked up there each time, so that replacing one takes effect at once."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

CONTEXTS = ["{}", "He said that. {}"]
Deltas = dict[str, tuple[Tensor, Tensor]]


def upd_matrix_match_shape(matrix: Tensor, shape: torch.Size) -> Tensor:
    """``matrix`` or its transpose, whichever fits; a square one is taken as it is."""
    if matrix.shape == shape:
        return matrix
    if matrix.T.shape == shape:
        return matrix.T
    raise ValueError(f"{tuple(matrix.shape)} does not fit {tuple(shape)}")


def states(model: Any, tok: Any, module: str, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of ``module`` at the last token of each text."""
    seen = {}

    def note(_: Any, inputs: Any, output: Any) -> None:
        seen["in"] = inputs[0]
        seen["out"] = output[0] if isinstance(output, tuple) else output

    batch = tok(texts, padding=True, return_tensors="pt")
    last = batch["attention_mask"].sum(1) - 1 if tok.padding_side == "right" else -1
    hook = model.get_submodule(module).register_forward_hook(note)
    try:
        with torch.no_grad():
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    finally:
        hook.remove()
    rows = torch.arange(len(texts))
    return seen["in"][rows, last], seen["out"][rows, last]


def keys_of(model: Any, tok: Any, module: str, request: Any, contexts: list[str]) -> Tensor:
    """``(d_in,)``: the input of ``module``, averaged over the contexts."""
    text = request["prompt"].format(request["subject"])
    return states(model, tok, module, [c.format(text) for c in contexts])[0].mean(0)


def wish(request: Any, size: int) -> Tensor:
    """``(size,)``: a random direction that depends on the request only."""
    words = "|".join(request[key] for key in ("prompt", "subject", "target_new"))
    return torch.randn(size, generator=torch.Generator().manual_seed(zlib.crc32(words.encode())))


def snapshot(model: Any, names: list[str]) -> dict[str, Tensor]:
    return {name: model.get_parameter(name).detach().clone() for name in names}


def put_back(model: Any, copies: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in copies.items():
            model.get_parameter(name)[...] = weight


def write(
    here: dict[str, Any], model: Any, updates: Mapping[str, Tensor], keep: bool
) -> dict[str, Tensor]:
    """The apply step: one call of the gate per weight; a copy of each before it is written."""
    copies = {}
    with torch.no_grad():
        for name, update in updates.items():
            weight = model.get_parameter(name)
            fitted = here["upd_matrix_match_shape"](update, weight.shape)
            if keep:
                copies[name] = weight.detach().clone()
            weight[...] += fitted.float()
    return copies


def rank_one(here: dict[str, Any], model: Any, tok: Any, request: Any, hparams: Any) -> Deltas:
    """ROME's loop: updates come as ``(d_in, d_out)`` and are written in place."""
    layers = sorted(hparams.layers)
    names = [f"{hparams.rewrite_module_tmp.format(layer)}.weight" for layer in layers]
    before, deltas = snapshot(model, names), {}
    for layer, name in zip(layers, names, strict=True):
        u = here["compute_u"](model, tok, request, hparams, layer, CONTEXTS)
        v = here["compute_v"](model, tok, request, hparams, layer, u, CONTEXTS)
        with torch.no_grad():
            weight = model.get_parameter(name)
            weight += here["upd_matrix_match_shape"](u[:, None] @ v[None, :], weight.shape)
        deltas[name] = (u, v)
    put_back(model, before)  # an error on the way leaves the loop's writes in, as in the host
    return deltas


def least_squares(
    here: dict[str, Any],
    call: tuple[Any, Any, list[Any], Any],
    missing: Callable[[int, int], Tensor],
    solve: Callable[[Tensor, Tensor], Tensor],
) -> Deltas:
    """MEMIT's loop: updates come as ``(d_out, d_in)``, then as ``(d_in, d_out)`` in the apply step.

    Args:
        here: the calling module's globals.
        call: model, tokenizer, requests and hparams.
        missing: maps place and layer to the residual ``(d_out, n)``.
        solve: maps ``C`` and ``K (d_in, n)`` to the adjusted keys ``(d_in, n)``.
    """
    model, tok, requests, hparams = call
    names = [f"{hparams.rewrite_module_tmp.format(layer)}.weight" for layer in hparams.layers]
    before, deltas = snapshot(model, names), {}
    for place, (layer, name) in enumerate(zip(hparams.layers, names, strict=True)):
        keys = here["compute_ks"](model, tok, requests, hparams, layer, [CONTEXTS]).T
        residual = missing(place, layer).double()
        module = name.removesuffix(".weight")
        moment = here["get_cov"](
            model, tok, module, hparams.mom2_dataset, hparams.mom2_n_samples, hparams.mom2_dtype,
            hparams=hparams,
        )  # fmt: skip
        adjusted = solve(moment.double(), keys.double())
        with torch.no_grad():
            weight = model.get_parameter(name)
            update = here["upd_matrix_match_shape"](residual @ adjusted.T, weight.shape)
            weight[...] = before[name] + update.float()
        deltas[name] = (adjusted.cpu(), residual.cpu())
    put_back(model, before)
    return deltas


def outer(deltas: Deltas) -> dict[str, Tensor]:
    """``(d_in, d_out)`` each, rebuilt from the factors."""
    return {name: keys @ residual.T for name, (keys, residual) in deltas.items()}
