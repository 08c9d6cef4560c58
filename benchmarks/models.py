"""Models with random weights at real shapes, and a tokenizer for them: nothing is downloaded.

The time of an edit depends on shapes and on the number of gradient steps, not on what the weights
say, so random ones will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice, product
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from alphaedit_plugin.data.pocket_world.model import load_pocket
from alphaedit_plugin.models.editable import EditableModel

END, UNKNOWN = "<end>", "<unk>"
SYLLABLES = tuple(a + b for a, b in product("bdfghjklmnprstvwz", "aeiou"))


@dataclass(frozen=True)
class Shape:
    """A model's shape and where the papers edit it.

    Attributes:
        config: makes the Hugging Face configuration; ``None`` for the embedded pocket model.
        layers: that MEMIT and AlphaEdit edit.
        rome_layer: that ROME edits.
        lr: of the target search.
        steps: of the target search.
    """

    config: Callable[[], Any] | None
    layers: tuple[int, ...]
    rome_layer: int
    lr: float = 0.5
    steps: int = 20


def _tiny() -> GPT2Config:
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2Config(vocab_size=500, n_positions=64, n_embd=32, n_layer=4, n_head=4, **ids)


def _gpt2_xl() -> GPT2Config:
    return GPT2Config(n_embd=1600, n_layer=48, n_head=25)


def _llama3_8b() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
    )


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "tiny": Shape(_tiny, (1, 2), 2),
        "pocket": Shape(None, (0,), 0, lr=0.3),
        "gpt2": Shape(GPT2Config, (3, 4, 5, 6, 7), 5),
        "gpt2-xl": Shape(_gpt2_xl, (13, 14, 15, 16, 17), 17),
        "gpt-j": Shape(GPTJConfig, (3, 4, 5, 6, 7, 8), 5, steps=25),
        "llama3-8b": Shape(_llama3_8b, (4, 5, 6, 7, 8), 5, lr=0.1, steps=25),
    }
)


def build(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int) -> EditableModel:
    """A model of ``shape``; its weights depend on ``seed`` only."""
    if shape.config is None:
        model, tokenizer = load_pocket(dtype)
        return EditableModel.wrap(model.to(device), tokenizer)
    config = shape.config()
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), device:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return EditableModel.wrap(model, word_tokenizer(config.vocab_size))


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of ``size`` made-up words, one token each."""
    made_up = ("".join(parts) for parts in product(SYLLABLES, repeat=3))
    words = [END, UNKNOWN, "is", "a", ".", ","]
    words += islice(made_up, size - len(words))
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, unk_token=UNKNOWN, padding_side="right"
    )
