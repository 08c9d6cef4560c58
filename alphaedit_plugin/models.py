"""Where a model keeps what an edit touches, and how to look inside while it runs.

The layout of a family is found by ``config.model_type``, never by the model's name or path.
Weights are seen *oriented*, ``(d_out, d_in)``, whatever their module's storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.errors import ModelError
from alphaedit_plugin.registry import Registry


@dataclass(frozen=True)
class Layout:
    """One model family.

    Attributes:
        block: path of a transformer block; ``{}`` stands for the layer number.
        down_proj: path of the MLP's down-projection, likewise.
        final_norm: path of the norm before the language-model head.
        adds_mlp: the block adds the down-projection's output to its own as it is, with no norm
            between, so that a change of the one is the same change of the other.
    """

    block: str
    down_proj: str
    final_norm: str
    adds_mlp: bool = True


LAYOUTS: Registry[Layout] = Registry("model type")
LAYOUTS.register(
    "gpt2", Layout("transformer.h.{}", "transformer.h.{}.mlp.c_proj", "transformer.ln_f")
)
LAYOUTS.register(
    "gptj", Layout("transformer.h.{}", "transformer.h.{}.mlp.fc_out", "transformer.ln_f")
)
LAYOUTS.register("llama", Layout("model.layers.{}", "model.layers.{}.mlp.down_proj", "model.norm"))


@dataclass(frozen=True)
class EditableModel:
    """A causal language model together with where its editable parts are.

    Attributes:
        model: the Hugging Face model; edited in place.
        tokenizer: its tokenizer; only read.
        layout: module paths of the model's family.
    """

    model: Any
    tokenizer: Any
    layout: Layout

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any) -> EditableModel:
        """Find the layout of ``model`` by its ``config.model_type``.

        Raises:
            ModelError: the family is not known, where the message names the nearest ones; or
                the model was made inside ``torch.inference_mode()``, where no gradient can pass.
        """
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        if not isinstance(model_type, str):
            raise ModelError(
                f"{type(model).__name__} has no config.model_type: pass a Hugging Face causal LM"
            )
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise ModelError(
                "the model was made inside torch.inference_mode(), so that no target can be "
                "searched: load it outside"
            )
        return cls(model, tokenizer, LAYOUTS.get(model_type, error=ModelError))

    @property
    def depth(self) -> int:
        """How many transformer blocks the model has."""
        return int(self.model.config.num_hidden_layers)

    @property
    def context_length(self) -> int | None:
        """How many tokens the model can read at once; ``None`` where it sets no limit."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def device(self) -> torch.device:
        """Where input ids have to be."""
        return self.model.get_input_embeddings().weight.device

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse a list of layers that cannot be edited.

        Raises:
            ModelError: no layer, a layer twice, or a layer outside ``0 … depth - 1``.
        """
        if not layers:
            raise ModelError("no layer to edit: set model.layers, e.g. model.layers=[3,4]")
        if len(set(layers)) != len(layers):
            raise ModelError(f"layers {list(layers)} name one layer twice")
        wrong = [layer for layer in layers if not 0 <= layer < self.depth]
        if wrong:
            raise ModelError(
                f"layer {wrong[0]} is out of range: this model has {self.depth} blocks, "
                f"0 to {self.depth - 1}; got layers {list(layers)}"
            )

    def block(self, layer: int) -> nn.Module:
        """The transformer block of ``layer``."""
        return self.model.get_submodule(self.layout.block.format(layer))

    def down_proj(self, layer: int) -> nn.Module:
        """The MLP's down-projection of ``layer``: the module whose weight is edited."""
        return self.model.get_submodule(self.layout.down_proj.format(layer))

    def weight_name(self, layer: int) -> str:
        """The edited parameter's name, as in ``model.named_parameters()``."""
        return self.layout.down_proj.format(layer) + ".weight"

    def parameter(self, layer: int) -> nn.Parameter:
        """The edited parameter of ``layer``, as its module stores it."""
        return self.model.get_parameter(self.weight_name(layer))

    def weight(self, layer: int) -> Tensor:
        """The edited weight of ``layer`` as a view oriented ``(d_out, d_in)``.

        Raises:
            ModelError: the module is neither a linear layer nor GPT-2's ``Conv1D``.
        """
        module = self.down_proj(layer)
        if isinstance(module, Conv1D):
            return module.weight.detach().T
        if isinstance(module, nn.Linear):
            return module.weight.detach()
        raise ModelError(
            f"{self.layout.down_proj.format(layer)} is a {type(module).__name__}: only "
            "nn.Linear and Conv1D weights can be edited (quantised layers cannot)"
        )


class StopForward(Exception):
    """Raised by a hook once everything of interest has been seen; ends the forward pass early."""


def hidden_of(output: Any) -> Tensor:
    """The hidden states in a block's output, be it a tensor or a tuple that starts with one."""
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """``output`` with its hidden states replaced by ``hidden``."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@contextmanager
def hooked(*registrations: Callable[[], Any]) -> Iterator[None]:
    """Install hooks, given as thunks that register one each; gone on exit, also on error."""
    handles = []
    try:
        for register in registrations:
            handles.append(register())
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def head_only_at(view: EditableModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Run the language-model head, a model's widest matrix, at the given places only.

    The model's logits then are ``(1, m, vocabulary)``, one row for each of the ``m`` places.
    """

    def gather(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][rows, columns][None], *args[1:])

    head = view.model.get_output_embeddings()
    with hooked(lambda: head.register_forward_pre_hook(gather)):
        yield


@contextmanager
def inference(view: EditableModel) -> Iterator[None]:
    """Evaluation mode, and no parameter asks for a gradient; put back as found on exit."""
    flags = [(p, p.requires_grad) for p in view.model.parameters()]
    modes = [(m, m.training) for m in view.model.modules()]
    try:
        view.model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
