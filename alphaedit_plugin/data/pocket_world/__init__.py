"""The pocket model: a tiny causal language model that knows a generated world of facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from alphaedit_plugin.data.pocket_world.world import World, read_world

ASSETS = Path(__file__).parent / "assets"


def load_pocket(
    dtype: torch.dtype = torch.float32, **spread: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the pocket model and its tokenizer from the package.

    Args:
        dtype: of the weights (stored in float16).
        spread: what else ``from_pretrained`` is told, of devices.

    Returns:
        The model in evaluation mode, on the CPU where ``spread`` says nothing else, and its fast
        tokenizer.
    """
    model = AutoModelForCausalLM.from_pretrained(ASSETS, dtype=dtype, **spread).eval()
    model.config._name_or_path = "pocket"  # for people, in place of a package's folder
    return model, AutoTokenizer.from_pretrained(ASSETS)


def load_world() -> World:
    """Load the world the pocket model was trained on."""
    return read_world(ASSETS / "world.json")
