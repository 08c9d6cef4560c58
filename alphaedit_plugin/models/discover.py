"""The layout of an unknown decoder, found by running it on two pairs of tokens.

Which module is the MLP's down-projection is told by what flows, not by what it is called. Of the
linear layers inside a block whose output is as wide as the hidden state:

- attention's output projection is given something that depends on *other* tokens, even where
  nothing else has passed between tokens before;
- the MLP's is given something that depends on its own token only, and what it puts out reaches
  the block's output even where all the others are silent; queries, keys, values and gates do not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.errors import ModelError
from alphaedit_plugin.models.families import Layout, several_experts
from alphaedit_plugin.models.hooks import (
    StopForward,
    evaluation,
    hidden_of,
    hooked,
    per_token,
    with_hidden,
)

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
        ModelError: the model is no causal decoder of like blocks, has several down-projections in
            a block, or has none that could be told; the message names the setting to give.
    """
    with torch.inference_mode(False), torch.no_grad(), evaluation(model):
        probe = _Probe.of(model, given.get("block"))
        down = given.get("down_proj") or f"{probe.block}.{_down_projection(probe)}"
        inside = down.removeprefix(probe.block + ".")
        found: dict[str, Any] = {
            "block": probe.block,
            "down_proj": down,
            "final_norm": _final_norm(probe),
            "adds_mlp": _adds(probe, inside),
        }
    layout = Layout(**(found | dict(given)))
    if "down_proj" not in given:
        chosen = [f for f in fields(Layout) if f.name not in given]
        said = " ".join(f"model.layout.{f.name}={getattr(layout, f.name)}" for f in chosen)
        logger.warning(
            "model type %r is not known; by running the model I chose %s: check it, and give "
            "these settings to confirm or to change them",
            model.config.model_type,
            said.replace("=None", "=null").replace("=True", "=true").replace("=False", "=false"),
        )
    return layout


@dataclass(frozen=True)
class _Probe:
    """The model with its blocks and something to run.

    Attributes:
        ids: ``(4, 2)``: rows 0 and 1 differ in their first token only, rows 2 and 3 in their last.
        block: path of a block, with ``{}`` for its number.
        blocks: all of them, in order.
    """

    model: Any
    ids: Tensor
    block: str
    blocks: tuple[nn.Module, ...]

    @classmethod
    def of(cls, model: Any, block: str | None) -> _Probe:
        """Find the blocks.

        Raises:
            ModelError: there is no list of as many blocks as the model has layers, or a token
                changes what comes before it.
        """
        ids = _token_ids(model)
        lists = _block_lists(model, ids)
        path = block or next(iter(lists), None)
        if path is None:
            raise ModelError(
                f"{model.config.model_type!r} is no known model type, and no list of blocks runs "
                "in it once each: set model.layout.block, e.g. model.layers.{}"
            )
        try:
            blocks = tuple(
                model.get_submodule(path.format(number)) for number in range(_depth(model))
            )
        except AttributeError as error:
            raise ModelError(f"model.layout.block is {path!r}: {error}") from None
        probe = cls(model, ids, path, blocks)
        first = probe.watch(blocks[-1], {"": blocks[-1]})[""][1]
        if not _same(first[2, 0], first[3, 0]):
            raise ModelError(
                f"{model.config.model_type!r} is no causal language model: a token changes the "
                "hidden states before it"
            )
        return probe

    def watch(
        self,
        until: nn.Module,
        seen: Mapping[str, nn.Module],
        silent: Collection[str] = (),
        nudged: tuple[str, Tensor] | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Run up to the end of module ``until``.

        Args:
            until: where to stop.
            seen: modules to watch, by name.
            silent: which of them are to put out zeros.
            nudged: which of them is to put out so much more, ``(d,)`` on every token.

        Returns:
            Input and output ``(4, 2, d)`` of those that ran, in the order in which they did.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def look(name: str, _: Any, args: Any, kwargs: Any, output: Any) -> Any:
            hidden = hidden_of(output)
            if name in silent:
                hidden = torch.zeros_like(hidden)
            if nudged is not None and name == nudged[0]:
                hidden = hidden + nudged[1]
            entered = args[0] if args else next(iter(kwargs.values()))
            found.pop(name, None)  # one that runs again counts by its last turn
            with suppress(RuntimeError):  # not one vector per token: of no interest
                found[name] = (per_token(entered, self.ids), per_token(hidden, self.ids))
            return with_hidden(output, hidden)

        def stop(*_: Any) -> None:
            raise StopForward

        hooks = [
            partial(module.register_forward_hook, partial(look, name), with_kwargs=True)
            for name, module in seen.items()
        ]
        with hooked(*hooks, lambda: until.register_forward_hook(stop)), suppress(StopForward):
            self.model(input_ids=self.ids, use_cache=False)
        return found


def _depth(model: Any) -> int:
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(depth, int) or depth < 1:
        raise ModelError(
            f"{model.config.model_type!r} is no known model type, and its config has no "
            "num_hidden_layers: register a Layout for it in LAYOUTS"
        )
    return depth


def _token_ids(model: Any) -> Tensor:
    embeddings = model.get_input_embeddings().weight
    # Spread, as the first tokens of a vocabulary are special, and one may be padding.
    a, b, c, d = (len(embeddings) * part // 7 for part in (2, 3, 4, 5))
    return torch.tensor([[a, c], [b, c], [a, b], [a, d]], device=embeddings.device)


def _block_lists(model: Any, ids: Tensor) -> list[str]:
    """Paths of lists of blocks that all run once, in order; the outermost first."""
    depth, order = _depth(model), []
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    }
    hooks = [
        partial(child.register_forward_pre_hook, lambda *_, key=(name, i): order.append(key))
        for name, module in lists.items()
        for i, child in enumerate(module)
    ]
    with hooked(*hooks):
        model(input_ids=ids, use_cache=False)
    ran = [name for name in lists if [i for n, i in order if n == name] == list(range(depth))]
    return [f"{name}.{{}}" for name in sorted(ran, key=lambda name: name.count("."))]


def _down_projection(probe: _Probe) -> str:
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
        if not _same(entered[0, 1], entered[1, 1]):
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
    return max(everywhere, key=lambda name: _sizes(linear[name])[0])


def _refuse_experts(probe: _Probe, block: nn.Module, width: int) -> None:
    fused = [
        name
        for module in block.modules()
        if not isinstance(module, nn.modules.conv._ConvNd)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and width in parameter.shape[1:]
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


def _writes(probe: _Probe, linear: Mapping[str, nn.Module], name: str) -> bool:
    """Whether the output of ``name`` reaches the block's where all the others are silent."""
    block = probe.blocks[0]
    others, seen = set(linear) - {name}, {**linear, "": block}
    before = probe.watch(block, seen, others)
    if name not in before:
        return False
    after = probe.watch(block, seen, others, (name, _nudge(before[name][1])))
    return not _same(before[""][1], after[""][1])


def _adds(probe: _Probe, down: str) -> bool:
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


def _final_norm(probe: _Probe) -> str | None:
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


def _sizes(module: nn.Module) -> tuple[int, int]:
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


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    eps = torch.finfo(one.dtype).eps ** 0.5
    difference = (one.float() - other.float()).norm()
    return bool(difference <= eps * one.float().norm())
