"""Loading the pocket model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from alphaedit_plugin.data.pocket_world.assets import ASSETS


def load_pocket(
    dtype: torch.dtype = torch.float32, **spread: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The pocket model in evaluation mode, and its tokenizer.

    Args:
        dtype: of the weights (stored in float16).
        spread: device arguments of ``from_pretrained``.
    """
    model = AutoModelForCausalLM.from_pretrained(ASSETS, dtype=dtype, **spread).eval()
    model.config._name_or_path = "pocket"  # what people see, instead of a folder in site-packages
    return model, AutoTokenizer.from_pretrained(ASSETS)
