"""The layout of an unknown decoder, found by running it on two pairs of tokens.

Which module is the MLP's down-projection is told by what flows, not by what it is called. Of the
linear layers inside a block whose output is as wide as the hidden state:

- attention's output projection is given something that depends on *other* tokens, even where
  nothing else has passed between tokens before;
- the MLP's is given something that depends on its own token only, and what it puts out reaches
  the block's output even where all the others are silent; queries, keys, values and gates do not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.common.errors import ModelError, first_line
from alphaedit_plugin.models.families import Layout, several_experts
from alphaedit_plugin.models.hooks import inference
from alphaedit_plugin.models.probe import Probe, same

logger = logging.getLogger(__name__)

NOT_NORMS = (nn.Linear, nn.Dropout, nn.Identity)
CLOSE = 0.05  # relative; bfloat16 rounds to 0.004, and no family scales by so little


def discover(model: Any, given: Mapping[str, Any]) -> Layout:
    """Find the layout of ``model`` by running it.

    Args:
        model: a causal language model.
        given: fields of `Layout` that are known; the others are looked for. Where the
            down-projection is not given, a warning says what was chosen.

    Raises:
        ModelError: the model cannot be run on token ids alone, is no causal decoder of like
            blocks, has several down-projections in a block, or has none that could be told; the
            message names the setting to give.
    """
    try:
        with torch.inference_mode(False), torch.no_grad(), inference(model):
            layout = _find(model, given)
    except ModelError:
        raise
    except Exception as error:  # whatever a model may raise that wants to be run in another way
        raise ModelError(
            f"{model.config.model_type!r} is no known model type, and running it on token ids "
            f"alone fails ({type(error).__name__}: {first_line(error)}): it cannot be edited"
        ) from error
    if "down_proj" not in given:
        logger.warning(
            "model type %r is not known; by running the model I chose %s: check it, and give "
            "these settings to confirm or to change them",
            model.config.model_type,
            " ".join(_setting(f.name, getattr(layout, f.name)) for f in fields(Layout)),
        )
    return layout


def _find(model: Any, given: Mapping[str, Any]) -> Layout:
    probe = Probe.of(model, given.get("block"))
    down = given.get("down_proj") or f"{probe.block}.{_down_projection(probe)}"
    found: dict[str, Any] = {
        "block": probe.block,
        "down_proj": down,
        "final_norm": _final_norm(probe),
        "adds_mlp": _adds(probe, down.removeprefix(probe.block + ".")),
    }
    return Layout(**(found | dict(given)))


def _setting(name: str, value: str | bool | None) -> str:
    """An override as the command line takes it: braces need quotes."""
    return f"model.layout.{name}={repr(value) if isinstance(value, str) else json.dumps(value)}"


def _down_projection(probe: Probe) -> str:
    """Path of the down-projection inside a block."""
    block = probe.blocks[0]
    width = probe.watch(block, {"": block})[""][1].shape[-1]
    _refuse_experts(probe, block, width)
    linear = {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and _sizes(module)[1] == width
    }
    mixers: list[str] = []
    for name in list(probe.watch(block, linear)):
        entered = probe.watch(block, linear, mixers)[name][0]
        mixes = not same(entered[0, 1], entered[1, 1])
        if mixes or same(
            entered[2, 1], entered[3, 1]
        ):  # recurrent blocks leave some with nothing where others are silent
            mixers.append(name)
    writers = [name for name in linear if name not in mixers and _writes(probe, linear, name)]
    everywhere = [
        name for name in writers if all(_has(other, name, linear[name]) for other in probe.blocks)
    ]
    if not everywhere:
        raise ModelError(
            f"no linear layer in the blocks of {probe.model.config.model_type!r} could be told to "
            "be the MLP's down-projection: set model.layout.down_proj, e.g. "
            f"{probe.block}.mlp.down_proj"
        )
    widest = max(everywhere, key=lambda name: _sizes(linear[name])[0])
    others = [f"{probe.block}.{name}" for name in everywhere if name != widest]
    if others:
        logger.warning("of several candidates I took the widest; others are %s", ", ".join(others))
    return widest


def _refuse_experts(probe: Probe, block: nn.Module, width: int) -> None:
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
            f"{probe.model.config.model_type!r} looks like a mixture of experts "
            f"({(fused + lists)[0]} in its blocks)"
        )


def _holds_linear(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Linear) for part in module.modules())


def _writes(probe: Probe, linear: Mapping[str, nn.Module], name: str) -> bool:
    """Whether the output of ``name`` reaches the block's where all the others are silent."""
    block = probe.blocks[0]
    others, seen = set(linear) - {name}, {**linear, "": block}
    before = probe.watch(block, seen, others)
    if name not in before:
        return False
    after = probe.watch(block, seen, others, (name, _nudge(before[name][1])))
    return not same(before[""][1], after[""][1])


def _adds(probe: Probe, down: str) -> bool:
    """Whether a change of the down-projection's output is the same change of the block's."""
    block = probe.blocks[0]
    try:
        seen = {"": block, down: block.get_submodule(down)}
    except AttributeError as error:
        raise ModelError(f"model.layout.down_proj: {error}") from None
    before = probe.watch(block, seen)
    nudge = _nudge(before[down][1])
    after = probe.watch(block, seen, (), (down, nudge))
    moved = after[""][1].float() - before[""][1].float()
    return bool((moved - nudge.float()).norm(dim=-1).max() < CLOSE * nudge.float().norm())


def _final_norm(probe: Probe) -> str | None:
    """Path of the last module without children that runs between the last block and the head."""
    head = probe.model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(probe.model).__name__} has no language-model head")
    leaves = {
        name: module
        for name, module in probe.model.named_modules()
        if not list(module.children()) and not isinstance(module, NOT_NORMS) and module is not head
    }
    ran = list(probe.watch(head, {**leaves, "": probe.blocks[-1]}))
    behind = ran[ran.index("") + 1 :]
    return behind[-1] if behind else None


def _nudge(output: Tensor) -> Tensor:
    """A change ``(d,)`` as large as ``output (…, d)``, or as 1, that no norm lets pass as it is."""
    size = max(output.float().std().item(), 1.0)
    steps = torch.arange(output.shape[-1], device=output.device)
    return (size * torch.cos(steps * steps)).to(output.dtype)


def _sizes(module: Any) -> tuple[int, int]:
    """Width of input and output of a linear layer."""
    first, second = module.weight.shape
    return (first, second) if isinstance(module, Conv1D) else (second, first)


def _has(block: nn.Module, name: str, like: nn.Module) -> bool:
    """Whether ``block`` has a module of this name, of the sizes of ``like``."""
    try:
        module = block.get_submodule(name)
    except AttributeError:
        return False
    return type(module) is type(like) and _sizes(module) == _sizes(like)
