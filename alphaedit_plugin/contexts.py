"""Context templates from the model's own generations (ROME, Meng et al. 2022, §3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig

from alphaedit_plugin.errors import NumericalError
from alphaedit_plugin.models import EditableModel, inference
from alphaedit_plugin.prompts import pad_id

STARTS = ("The", "Therefore", "Because", "I", "You")


def generate_contexts(
    view: EditableModel, lengths: Sequence[tuple[int, int]], seed: int
) -> list[str]:
    """Sample short texts and make each a template ``"<text>. {}"``.

    Args:
        view: the model to sample from, top-5 as EasyEdit does.
        lengths: pairs of (tokens per text, number of texts); numbers are spread over five
            starting words.
        seed: of the sampling; the global random state is left as it was.

    Returns:
        The templates, without the bare ``"{}"``.

    Raises:
        NumericalError: the model's predictions are not numbers.
    """
    templates = []
    with torch.random.fork_rng(devices=_cuda_devices(view)), torch.no_grad(), inference(view):
        torch.manual_seed(seed)
        for length, count in lengths:
            for number, start in enumerate(STARTS):
                share = len(range(number, count, len(STARTS)))  # how many texts begin like this
                if share == 0:
                    break
                ids = view.tokenizer(start, return_tensors="pt")["input_ids"].to(view.device)
                config = GenerationConfig(
                    do_sample=True,
                    top_k=5,
                    max_new_tokens=max(1, length - ids.shape[1]),
                    num_return_sequences=share,
                    pad_token_id=pad_id(view.tokenizer),
                    eos_token_id=view.tokenizer.eos_token_id,
                )
                texts = view.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=config,
                    logits_processor=[_refuse_nan],
                )
                templates += [
                    as_template(view.tokenizer.decode(text, skip_special_tokens=True))
                    for text in texts
                ]
    return templates


def _refuse_nan(_: Tensor, scores: Tensor) -> Tensor:
    """Stop a generation whose next token cannot be drawn."""
    if scores.isnan().any():
        raise NumericalError(
            "the model predicts nan: its weights are damaged, or overflow (try "
            "model.dtype=bfloat16 or float32)"
        )
    return scores


def as_template(text: str) -> str:
    """``text`` as a context template: braces and line breaks would break the slot."""
    return " ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}"


def _cuda_devices(view: EditableModel) -> list[int]:
    return [view.device.index or 0] if view.device.type == "cuda" else []
