"""Running a model on pairs of tokens, with some of its modules silenced or nudged."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.models.hooks import StopForward, hidden_of, hooked, per_token, with_hidden
from alphaedit_plugin.models.offload import execution_device


@dataclass(frozen=True)
class Probe:
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
    def of(cls, model: Any, block: str | None) -> Probe:
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
        if not same(first[2, 0], first[3, 0]):
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

        Raises:
            ModelError: the module that is watched as ``""``, a block, puts out anything else.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        shape: list[int] | None = None

        def look(name: str, _: Any, args: Any, kwargs: Any, output: Any) -> Any:
            nonlocal shape
            hidden = hidden_of(output)
            if not isinstance(hidden, Tensor):
                return output
            shape = list(hidden.shape) if name == "" else shape
            if name in silent:
                hidden = torch.zeros_like(hidden)
            if nudged is not None and name == nudged[0]:
                hidden = hidden + nudged[1]
            entered = args[0] if args else next(iter(kwargs.values()))
            found.pop(name, None)  # one that runs again counts by its last turn
            # Not one vector per token: of no interest.
            with suppress(RuntimeError, AttributeError):
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
        if "" in seen and "" not in found:
            what = "nothing" if shape is None else f"a tensor of shape {shape}"
            raise ModelError(
                f"a block of {self.model.config.model_type!r} puts out {what} for "
                f"{list(self.ids.shape)} tokens, where an edit needs one vector per token: it "
                "cannot be edited"
            )
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
    module = model.get_input_embeddings()
    embeddings, device = module.weight, execution_device(module, "weight")
    # Spread, as the first tokens of a vocabulary are special, and one may be padding.
    a, b, c, d = (len(embeddings) * part // 7 for part in (2, 3, 4, 5))
    return torch.tensor([[a, c], [b, c], [a, b], [a, d]], device=device)


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


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    eps = torch.finfo(one.dtype).eps ** 0.5
    difference = (one.float() - other.float()).norm()
    return bool(difference <= eps * one.float().norm())
