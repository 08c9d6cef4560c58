"""A tiny Llama as a GGUF file, made with the format's own package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alphaedit_plugin.models.editable import EditableModel

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def save_gguf(lm: EditableModel, path: Path, quantised: bool = False, family: str = "llama") -> Any:
    """Write a Llama with a byte-level tokenizer.

    Args:
        lm: the model, with RoPE's base at its default.
        path: of the file.
        quantised: keep the down-projections in blocks of eight-bit integers.
        family: what the file calls itself.

    Returns:
        The down-projections ``(d_out, d_in)`` that the file's reader should find, by layer.
    """
    import gguf

    config, writer = lm.model.config, gguf.GGUFWriter(path, family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, lm.tokenizer)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found = {}
    for name, parameter in lm.model.named_parameters():
        stem, suffix = name.rsplit(".", 1)
        tensor = parameter.detach()
        if stem in OUTER:
            writer.add_tensor(f"{OUTER[stem]}.{suffix}", tensor.numpy())
            continue
        _, _, layer, inside = stem.split(".", 3)
        part, kind = NAMES[inside], gguf.GGMLQuantizationType.F32
        values = _interleaved(tensor, heads[part]) if part in heads else tensor.numpy()
        if part == "ffn_down":
            if quantised:
                kind = gguf.GGMLQuantizationType.Q8_0
            values = gguf.quants.quantize(values, kind)
            found[int(layer)] = gguf.quants.dequantize(values, kind)
        writer.add_tensor(f"blk.{layer}.{part}.{suffix}", values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    content = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = sorted(content["vocab"], key=content["vocab"].get)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in content["merges"]])
    writer.add_add_bos_token(tokenizer("")["input_ids"] != [])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)


def _interleaved(weight: Tensor, heads: int) -> np.ndarray:
    """Rows in the format's order: the halves that RoPE turns together alternate."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.transpose(1, 2).reshape(rows, columns).numpy())
