"""A tiny random model of every family that the registry knows, made from its own config class."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import __version__ as VERSION

from tests.tiny import CONTEXT

DEPTH = 3
WINDOW = 4  # shorter than any prompt of `tests.tiny`

_HEADS = {"hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
_PLAIN = _HEADS | {"intermediate_size": 96, "max_position_embeddings": CONTEXT}
_GROUPED = _PLAIN | {"num_key_value_heads": 2}
_NARROW = _GROUPED | {"head_dim": 16}  # so that attention's output projection widens, too
_GPT = {"n_embd": 32, "n_layer": DEPTH, "n_head": 4, "n_positions": CONTEXT}
_OPT = _HEADS | {"ffn_dim": 96, "max_position_embeddings": CONTEXT, "word_embed_proj_dim": 32}
_WINDOWED = _NARROW | {"sliding_window": WINDOW}
_ALTERNATING = _WINDOWED | {
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]
}

# The cache that transformers 4 gives this one cannot be cut: its searches run whole sentences.
WHOLE = {"gpt_bigcode"} if VERSION.startswith("4.") else set()

# Family, or family/variant, and what its config class is given.
SETTINGS: dict[str, dict[str, Any]] = {
    "apertus": _GROUPED,
    "arcee": _GROUPED,
    "biogpt": _PLAIN,
    "bloom": {"hidden_size": 32, "n_layer": DEPTH, "n_head": 4},
    "codegen": _GPT | {"rotary_dim": 4},
    "cohere": _GROUPED,
    "cohere2": _ALTERNATING,
    "cwm": _WINDOWED,
    "diffllama": _GROUPED,
    "ernie4_5": _GROUPED,
    "exaone4": _ALTERNATING,
    "falcon": _HEADS | {"ffn_hidden_size": 96},
    "falcon/alibi": _HEADS | {"alibi": True, "parallel_attn": False, "bias": True},
    "falcon/new": _HEADS | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "gemma": _NARROW,
    "gemma2": _ALTERNATING,
    "gemma3": {
        "text_config": _ALTERNATING,
        "vision_config": _HEADS | {"num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
    },
    "gemma3_text": _ALTERNATING,
    "glm": _GROUPED,
    "glm4": _GROUPED,
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": _HEADS
    | {
        "intermediate_size": 96,
        "max_position_embeddings": CONTEXT,
        "attention_types": [[["local", "global", "local"], 1]],
        "num_layers": DEPTH,  # the name that transformers 4 checks them against
        "window_size": WINDOW,
    },
    "gpt_neox": _PLAIN | {"rotary_pct": 0.5},
    "gpt_neox/sequential": _PLAIN | {"use_parallel_residual": False},
    "gptj": _GPT | {"rotary_dim": 4},
    "granite": _GROUPED | {"residual_multiplier": 0.3, "embedding_multiplier": 3.0},
    "granite/plain": _GROUPED,
    "granite_swa": _WINDOWED | {"residual_multiplier": 0.3},
    "helium": _GROUPED | {"head_dim": 8},
    "hunyuan_v1_dense": _NARROW,
    "internlm3": _GROUPED,
    "jais2": _GROUPED,
    "llama": _GROUPED,
    "llama/tied": _GROUPED
    | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "ministral": _WINDOWED,
    "ministral3": _NARROW,
    "mistral": _WINDOWED,
    "mpt": {"d_model": 32, "n_layers": DEPTH, "n_heads": 4, "max_seq_len": CONTEXT},
    "nanochat": _GROUPED,
    "nemotron": _GROUPED,
    "olmo": _GROUPED,
    "olmo2": _GROUPED,
    "olmo3": _ALTERNATING,
    "opt": _OPT,
    "opt/350m": _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
    "persimmon": _PLAIN,
    "phi": _PLAIN,
    "phi3": _GROUPED | {"sliding_window": WINDOW},
    "qwen2": _GROUPED,
    "qwen3": _NARROW,
    "seed_oss": _NARROW,
    "smollm3": _GROUPED,
    "stablelm": _GROUPED,
    "stablelm/parallel": _GROUPED | {"use_parallel_residual": True, "use_qkv_bias": True},
    "starcoder2": _WINDOWED,
    "vaultgemma": _ALTERNATING,
    "xglm": {"d_model": 32, "ffn_dim": 96, "num_layers": DEPTH, "attention_heads": 4}
    | {"max_position_embeddings": CONTEXT},
}


def build(name: str, vocabulary: int, **settings: Any) -> Any:
    """A model of `SETTINGS`, or of another family from ``settings``, in evaluation mode."""
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": vocabulary}
    given = SETTINGS.get(name, {}) | settings
    if "text_config" in given:
        given["text_config"] = given["text_config"] | ids
    config = AutoConfig.for_model(name.partition("/")[0], **given, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():  # large enough that every part of a block shows
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
            else:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model
