"""The layouts of model families by ``config.model_type``, and which models cannot be edited."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.common.registry import Registry


@dataclass(frozen=True)
class Layout:
    """One model family.

    Attributes:
        block: path of a transformer block; ``{}`` stands for the layer number.
        down_proj: path of the MLP's down-projection, likewise.
        final_norm: path of the norm before the language-model head; ``None`` if there is none.
        adds_mlp: whether the block adds the down-projection's output unchanged, without a norm or
            factor, so that both change by the same amount; ``None`` in a family whose models
            differ: `discover` then finds it and ``final_norm``.
    """

    block: str
    down_proj: str
    final_norm: str | None
    adds_mlp: bool | None = True


LAYOUTS: Registry[Layout] = Registry("model type")

_GPT2 = Layout("transformer.h.{}", "transformer.h.{}.mlp.c_proj", "transformer.ln_f")
_GPTJ = replace(_GPT2, down_proj="transformer.h.{}.mlp.fc_out")
_BLOOM = replace(_GPT2, down_proj="transformer.h.{}.mlp.dense_4h_to_h")
_LLAMA = Layout("model.layers.{}", "model.layers.{}.mlp.down_proj", "model.norm")
_SCALED = replace(_LLAMA, adds_mlp=False)  # a norm or a factor after the MLP
_FAIRSEQ = Layout("model.layers.{}", "model.layers.{}.fc2", "model.layer_norm")

_FAMILIES: dict[Layout, str] = {
    _GPT2: "gpt2 gpt_bigcode gpt_neo",
    _GPTJ: "gptj codegen",
    _BLOOM: "bloom falcon",
    _LLAMA: (
        "llama mistral ministral ministral3 qwen2 qwen3 gemma phi3 olmo stablelm internlm3 "
        "apertus arcee cohere cohere2 cwm diffllama ernie4_5 glm helium hunyuan_v1_dense jais2 "
        "nemotron seed_oss smollm3 vaultgemma"
    ),
    _SCALED: "gemma2 gemma3_text olmo2 olmo3 exaone4 glm4",
    replace(_LLAMA, adds_mlp=None): "granite granite_swa",
    _FAIRSEQ: "xglm",
    replace(_LLAMA, down_proj="model.layers.{}.mlp.c_proj"): "starcoder2",
    replace(_LLAMA, down_proj="model.layers.{}.mlp.fc2"): "nanochat",
    Layout("model.layers.{}", "model.layers.{}.mlp.fc2", "model.final_layernorm"): "phi",
    Layout(
        "model.layers.{}", "model.layers.{}.mlp.dense_4h_to_h", "model.final_layernorm"
    ): "persimmon",
    Layout(
        "gpt_neox.layers.{}", "gpt_neox.layers.{}.mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"
    ): "gpt_neox",
    Layout("biogpt.layers.{}", "biogpt.layers.{}.fc2", "biogpt.layer_norm"): "biogpt",
    Layout("transformer.blocks.{}", "transformer.blocks.{}.ffn.down_proj", "transformer.norm_f"): (
        "mpt"
    ),
    # The 350M model has its norms after the MLP, and none at the end.
    Layout(
        "model.decoder.layers.{}",
        "model.decoder.layers.{}.fc2",
        "model.decoder.final_layer_norm",
        adds_mlp=None,
    ): "opt",
    Layout(
        "model.language_model.layers.{}",
        "model.language_model.layers.{}.mlp.down_proj",
        "model.language_model.norm",
        adds_mlp=False,
    ): "gemma3",
}

for _layout, _names in _FAMILIES.items():
    for _name in _names.split():
        LAYOUTS.register(_name, _layout)

# Names of the number of routed experts in configurations.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def check_config(config: Any) -> None:
    """Refuse models that cannot be edited, from the configuration alone.

    Raises:
        ModelError: the weights are quantised, the model is an encoder and a decoder, or a mixture
            of experts.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{config.model_type} is an encoder with a decoder, and only causal language models "
            "(decoders alone) can be edited"
        )
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        get = quantised.get if isinstance(quantised, dict) else vars(quantised).get
        method = getattr(get("quant_method"), "value", get("quant_method"))
        raise quantised_weights(f"the model is quantised ({method or type(quantised).__name__})")
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    counts = {name: getattr(text, name, None) for name in _EXPERTS}
    many = [f"{n}={c}" for n, c in counts.items() if isinstance(c, int) and c > 1]
    if many and config.model_type not in LAYOUTS:
        raise several_experts(f"{config.model_type} is a mixture of experts ({many[0]})")


def quantised_weights(what: str) -> ModelError:
    """Why such weights cannot be edited, and what to do instead."""
    return ModelError(
        f"{what}: an edit is smaller than the steps of such weights; edit the unquantised model "
        "(model.dtype=bfloat16), and apply the change to the quantised one as the LoRA that "
        "`alphaedit export` writes"
    )


def several_experts(what: str) -> ModelError:
    """Why a mixture of experts cannot be edited."""
    return ModelError(
        f"{what}: a layer has several down-projections, and routing decides for each token which "
        "of them its key goes to, so no single weight holds a fact; use a dense model"
    )
