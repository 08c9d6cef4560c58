"""`EditableModel`: a model, its tokenizer, and the paths of its editable parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, ModelError
from alphaedit_plugin.models import offload
from alphaedit_plugin.models.boundary import special_tokens
from alphaedit_plugin.models.chat import has_chat_template, in_chat
from alphaedit_plugin.models.discover import discover
from alphaedit_plugin.models.families import LAYOUTS, Layout, check_config, quantised_weights
from alphaedit_plugin.models.wrapped import NoTokenizer, adapted, unwrapped

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PLAIN: tuple[type[Tensor], ...] = (Tensor,)  # packages that quantise use subclasses


@dataclass(frozen=True)
class EditableModel:
    """A causal language model with the paths of its editable parts.

    Attributes:
        model: the Hugging Face model; edited in place.
        tokenizer: its tokenizer; only read.
        layout: module paths of the model's family.
        separator: text between a prompt and its answer; ``None`` for `boundary.separator_of`.
        chat: prompts are read as a user's messages, see `asked`.
        findings: results of tests that run once per model: see `prefix_cache.can_resume`.
    """

    model: Any
    tokenizer: Any
    layout: Layout
    separator: str | None = None
    chat: bool = False
    findings: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def wrap(
        cls,
        model: Any,
        tokenizer: Any,
        given: Mapping[str, Any] | None = None,
        separator: str | None = None,
        chat: bool = False,
    ) -> EditableModel:
        """Find the layout of ``model`` by its ``config.model_type``, otherwise by `discover`.

        Args:
            model: a causal language model; one that ``torch.compile`` returned is unwrapped.
            tokenizer: its tokenizer; ``None`` if no text is needed.
            given: fields of `Layout` that override, as in ``model.layout``.
            separator: see `EditableModel`.
            chat: see `EditableModel`.

        Raises:
            ModelError: the model cannot be edited, see `unwrapped`, `check_config` and `discover`;
                a path does not exist; or the model was made inside ``torch.inference_mode()``,
                which excludes gradients.
            ConfigError: ``chat``, but the tokenizer has no chat template.
        """
        if chat and not has_chat_template(tokenizer):
            raise ConfigError("model.chat=true, but the tokenizer has no chat template: remove it")
        model = unwrapped(model) if isinstance(model, nn.Module) else model
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        if not isinstance(model_type, str):
            raise ModelError(
                f"{type(model).__name__} has no config.model_type: pass a Hugging Face causal LM"
            )
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise ModelError(
                "the model was made inside torch.inference_mode(), so no target can be searched: "
                "load it outside"
            )
        check_config(model.config)
        given = dict(given or {})
        if model_type in LAYOUTS:
            layout = replace(LAYOUTS.get(model_type), **given)
            if layout.adds_mlp is None:
                layout = discover(model, {"block": layout.block, "down_proj": layout.down_proj})
        else:
            layout = discover(model, given)
        lm = cls(model, NoTokenizer() if tokenizer is None else tokenizer, layout, separator, chat)
        lm._check_paths(given)
        if given:
            lm.check_layers(range(lm.depth))
        return lm

    def asked(self, prompt: str) -> str:
        """What is read for ``prompt``: in the chat template, unless it begins with its tokens."""
        if not self.chat or prompt.startswith(special_tokens(self.tokenizer)):
            return prompt
        return in_chat(self.tokenizer, prompt)

    def _check_paths(self, given: Mapping[str, Any]) -> None:
        """Refuse a layout with paths that this model does not have."""
        kind, model_type = type(self.model).__name__, self.model.config.model_type
        for name in ("block", "down_proj"):
            path = getattr(self.layout, name)
            for layer in range(self.depth):
                try:
                    self.model.get_submodule(path.format(layer))
                except AttributeError:
                    missing = f"{kind} has no {path.format(layer)}"
                    raise ModelError(
                        f"model.layout.{name} is {path!r}: {missing}"
                        if given
                        else f"{missing}, where {model_type} has its layers: pass the whole "
                        "causal LM, as AutoModelForCausalLM loads it"
                    ) from None

    @property
    def config(self) -> Any:
        """The configuration of the language model, which may be part of a larger one."""
        config = self.model.config
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def context_length(self) -> int | None:
        """The most tokens that the model can read at once; ``None`` for no limit."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def device(self) -> torch.device:
        """The device of input ids."""
        return offload.execution_device(self.model.get_input_embeddings(), "weight")

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse a list of layers that cannot be edited.

        Raises:
            ModelError: no layer, a layer twice, or a layer outside ``0 … depth - 1``; or see
                `weight`.
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
        for layer in layers:
            self._check_weight(layer)

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
        """The edited parameter of ``layer``; it may be offloaded, see `stored`."""
        return self.model.get_parameter(self.weight_name(layer))

    def stored(self, layer: int) -> Tensor:
        """The edited weight of ``layer``, oriented as in its module, on its device."""
        return offload.stored(self.model, self.weight_name(layer))

    def key_size(self, layer: int) -> int:
        """``d_in`` of ``layer``, without reading offloaded weights."""
        return int(self._oriented(layer, self.parameter(layer)).shape[1])

    def weight(self, layer: int) -> Tensor:
        """The edited weight of ``layer`` as a view ``(d_out, d_in)``, on its device.

        Raises:
            ModelError: the module is neither a linear layer nor GPT-2's ``Conv1D``, or its weight
                is quantised or parametrised; or see `offload.stored`.
        """
        self._check_weight(layer)
        return self._oriented(layer, self.stored(layer))

    def _oriented(self, layer: int, weight: Tensor) -> Tensor:
        return weight.detach().T if isinstance(self.down_proj(layer), Conv1D) else weight.detach()

    def _check_weight(self, layer: int) -> None:
        module, path = self.down_proj(layer), self.layout.down_proj.format(layer)
        if adapted(module):
            raise ModelError(
                f"a peft adapter replaces {path}: merge it with the peft model's merge_and_unload()"
            )
        if not isinstance(module, (nn.Linear, Conv1D)):
            raise quantised_weights(
                f"{path} is a {type(module).__name__}, and only nn.Linear and Conv1D can be edited"
            )
        if "weight" not in dict(module.named_parameters(recurse=False)):
            raise ModelError(
                f"{path} computes its weight from others (weight_norm or another "
                "parametrization), so an edit of it would be lost: remove that first, e.g. with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        weight = module.weight
        # Packages that quantise keep nn.Linear and change its weight's dtype or class.
        if weight.dtype not in FLOATS or type(weight.detach()) not in PLAIN:
            kind = str(weight.dtype) if weight.dtype not in FLOATS else type(weight.data).__name__
            raise quantised_weights(f"{path} keeps its weight as {kind}")


def check_size(
    lm: EditableModel,
    layer: int,
    size: int,
    source: object,
    kind: type[AlphaEditError] = ConfigError,
) -> None:
    """Refuse a file whose keys have another ``size`` than those of ``layer``.

    Raises:
        AlphaEditError: of that ``kind``; it names the ``source`` and both sizes.
    """
    needed = lm.key_size(layer)
    if size != needed:
        raise kind(
            f"{source} is for keys of {size} dimensions, but this model's "
            f"{lm.layout.down_proj.format(layer)} has {needed}: it was made for another model"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """``"float32"`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
