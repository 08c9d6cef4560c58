"""The layout of a decoder of an unknown family.

The down-projection is looked up among the names it has in known families. Two forward passes on
pairs of tokens then show that it is one, where the final norm is, and what the block does with the
down-projection's output.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.common.errors import ModelError, first_line
from alphaedit_plugin.models.families import Layout, several_experts
from alphaedit_plugin.models.hooks import (
    StopForward,
    hidden_of,
    hooked,
    inference,
    per_token,
    with_hidden,
)
from alphaedit_plugin.models.offload import execution_device

logger = logging.getLogger(__name__)

Call = tuple[str, Tensor | None]

# Names of the down-projection inside a block, unless its MLP has none of its own.
IN_BLOCK = ("fc2", "linear2", "output.dense", "ffn.2")
IN_MLP = tuple(
    f".{mlp}.{name}"
    for mlp in ("mlp", "mlp_block", "ffn", "feed_forward")
    for name in (
        *("down_proj", "c_proj", "fc_out", "fc2", "dense_4h_to_h", "w2", "wo", "Wo"),
        *("out_proj", "proj", "lin2", "linear2", "linear_2", "down", "fc_2"),
    )
)

NOT_NORMS = (nn.Linear, nn.Dropout, nn.Identity)
CLOSE = 0.05  # relative; bfloat16 rounds to 0.004, and no family scales by so little


def discover(model: Any, given: Mapping[str, Any]) -> Layout:
    """Find the layout of ``model``, and log a warning with it unless ``down_proj`` is given.

    Args:
        model: a causal language model.
        given: fields of `Layout` that are known.

    Raises:
        ModelError: the model does not run on token ids alone, is not causal, is a mixture of
            experts, or no layer can be told to be the down-projection; the message names the
            setting to give.
    """
    try:
        with torch.inference_mode(False), torch.no_grad(), inference(model):
            layout = _find(model, given)
    except ModelError:
        raise
    except Exception as error:  # models that need other inputs raise anything
        raise ModelError(
            f"{model.config.model_type!r} is not a known model type, and running it on token ids "
            f"alone fails ({type(error).__name__}: {first_line(error)}): it cannot be edited"
        ) from error
    if "down_proj" not in given:
        logger.warning(
            "model type %r is not known; I chose %s: check it, and give these settings to confirm "
            "or to change them",
            model.config.model_type,
            " ".join(_setting(f.name, getattr(layout, f.name)) for f in fields(Layout)),
        )
    return layout


def _setting(name: str, value: str | bool | None) -> str:
    """An override as the command line takes it: braces need quotes."""
    return f"model.layout.{name}={repr(value) if isinstance(value, str) else json.dumps(value)}"


def _find(model: Any, given: Mapping[str, Any]) -> Layout:
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no language-model head")
    ids = _token_ids(model)
    modules = {name: module for name, module in model.named_modules() if module is not head}
    calls = _calls(model, ids, modules)
    path = given.get("block") or _block_path(model, calls)
    blocks = _blocks(model, path)
    ran, last = [name for name, _ in calls], path.format(len(blocks) - 1)
    before = dict(calls)
    states = _states(model, before.get(last), ids)
    if not _same(states[0, 0], states[1, 0]):
        raise ModelError(
            f"{model.config.model_type!r} is not a causal language model: a token changes the "
            "hidden states before it"
        )
    down = given.get("down_proj") or _down_projection(model, path, blocks, states.shape[-1])
    norms = [
        name
        for name in ran[ran.index(last) + 1 :]
        if not list(modules[name].children()) and not isinstance(modules[name], NOT_NORMS)
    ]
    found: dict[str, Any] = {
        "block": path,
        "down_proj": down,
        "final_norm": norms[-1] if norms else None,
        "adds_mlp": _adds(model, ids, path.format(0), down.format(0), before),
    }
    return Layout(**(found | dict(given)))


def _block_path(model: Any, calls: Sequence[Call]) -> str:
    """Path of the outermost list of as many modules as the model has layers, run once each."""
    depth, paths = model.config.get_text_config().num_hidden_layers, []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            numbers = [f"{name}.{number}" for number in range(depth)]
            if [called for called, _ in calls if called in numbers] == numbers:
                paths.append(name)
    if not paths:
        raise ModelError(
            f"{model.config.model_type!r} is not a known model type, and no list of {depth} blocks "
            "in it runs once each, in order: set model.layout.block, e.g. model.layers.{}"
        )
    return min(paths, key=lambda name: name.count(".")) + ".{}"


def _blocks(model: Any, path: str) -> list[nn.Module]:
    try:
        depth = model.config.get_text_config().num_hidden_layers
        return [model.get_submodule(path.format(number)) for number in range(depth)]
    except AttributeError as error:
        raise ModelError(f"model.layout.block is {path!r}: {error}") from None


def _down_projection(model: Any, path: str, blocks: list[nn.Module], width: int) -> str:
    """Path of the only layer with a down-projection's name and output width in every block."""
    _refuse_experts(model, blocks[0], width)
    candidates = [
        name
        for name, module in blocks[0].named_modules()
        if (name in IN_BLOCK or f".{name}".endswith(IN_MLP))
        and all(_projects(block, name, width) for block in blocks)
    ]
    if len(candidates) != 1:
        several = f"; candidates are {', '.join(candidates)}" if candidates else ""
        raise ModelError(
            f"no linear layer in the blocks of {model.config.model_type!r} could be told to be "
            f"the MLP's down-projection{several}: set model.layout.down_proj, e.g. "
            f"{path}.mlp.down_proj"
        )
    return f"{path}.{candidates[0]}"


def _projects(block: nn.Module, name: str, width: int) -> bool:
    """Whether ``block`` has a linear layer of this name with ``width`` outputs."""
    try:
        module = block.get_submodule(name)
    except AttributeError:
        return False
    if isinstance(module, Conv1D):
        return int(module.weight.shape[1]) == width
    return isinstance(module, nn.Linear) and module.weight.shape[0] == width


def _refuse_experts(model: Any, block: nn.Module, width: int) -> None:
    fused = [
        name
        for module in block.modules()
        if not isinstance(module, nn.modules.conv._ConvNd)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and min(parameter.shape) > 1 and width in parameter.shape[1:]
    ]
    lists = [
        name
        for name, module in block.named_modules()
        if isinstance(module, nn.ModuleList) and sum(map(_holds_linear, module.children())) > 1
    ]
    if fused or lists:
        raise several_experts(
            f"{model.config.model_type!r} looks like a mixture of experts "
            f"({(fused + lists)[0]} in its blocks)"
        )


def _holds_linear(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Linear) for part in module.modules())


def _adds(
    model: Any, ids: Tensor, block: str, down: str, before: Mapping[str, Tensor | None]
) -> bool:
    """Whether a change of the down-projection's output changes the block's by the same amount."""
    try:
        watched = {name: model.get_submodule(name) for name in (down, block)}
    except AttributeError as error:
        raise ModelError(f"model.layout.down_proj: {error}") from None
    if before.get(down) is None:
        raise ModelError(f"model.layout.down_proj: {down} does not run")
    nudge = _nudge(before[down])
    after = dict(_calls(model, ids, watched, (down, nudge)))
    moved = _states(model, after[block], ids).float() - _states(model, before[block], ids).float()
    if not moved.any():
        raise ModelError(f"model.layout.down_proj: {block} does not depend on {down}")
    return bool((moved - nudge.float()).norm(dim=-1).max() < CLOSE * nudge.float().norm())


def _calls(
    model: Any,
    ids: Tensor,
    watched: Mapping[str, nn.Module],
    nudged: tuple[str, Tensor] | None = None,
) -> list[Call]:
    """Run up to the head; name and output of the modules that ran, in the order they ended.

    Args:
        model: runs on ``ids``.
        ids: of tokens, ``(n, length)``.
        watched: modules by name.
        nudged: adds ``(d,)`` to every token's output of this module.
    """
    calls: list[Call] = []

    def look(name: str, _: Any, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        if nudged is not None and name == nudged[0]:
            hidden = hidden + nudged[1]
        calls.append((name, hidden if isinstance(hidden, Tensor) else None))
        return with_hidden(output, hidden) if nudged is not None else output

    def stop(*_: Any) -> None:
        raise StopForward

    hooks = [
        partial(module.register_forward_hook, partial(look, name))
        for name, module in watched.items()
    ]
    head = model.get_output_embeddings()
    with hooked(*hooks, lambda: head.register_forward_pre_hook(stop)), suppress(StopForward):
        model(input_ids=ids, use_cache=False)
    return calls


def _states(model: Any, output: Tensor | None, ids: Tensor) -> Tensor:
    """A block's output as ``(n, length, d)``."""
    if output is not None and output.numel() == ids.numel() * output.shape[-1]:
        return per_token(output, ids)
    what = "nothing" if output is None else f"a tensor of shape {list(output.shape)}"
    raise ModelError(
        f"a block of {model.config.model_type!r} puts out {what} for {list(ids.shape)} tokens, "
        "where an edit needs one vector per token: it cannot be edited"
    )


def _token_ids(model: Any) -> Tensor:
    """``(2, 2)``: two sentences that differ in their last token."""
    embeddings = model.get_input_embeddings()
    # Spread, because the first tokens of a vocabulary are special, and one may be padding.
    a, b, c = (len(embeddings.weight) * part // 7 for part in (2, 4, 5))
    return torch.tensor([[a, b], [a, c]], device=execution_device(embeddings, "weight"))


def _nudge(output: Any) -> Tensor:
    """A change ``(d,)`` as large as ``output (…, d)``, or as 1, that no norm passes unchanged."""
    size = max(output.float().std().item(), 1.0)
    steps = torch.arange(output.shape[-1], device=output.device)
    return (size * torch.cos(steps * steps)).to(output.dtype)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    eps = torch.finfo(one.dtype).eps ** 0.5
    difference = (one.float() - other.float()).norm()
    return bool(difference <= eps * one.float().norm())
