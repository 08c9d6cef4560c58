"""Texts drawn from a model, top-5 as ROME and EasyEdit do, from a seed of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig

from alphaedit_plugin.common import rng
from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.models.boundary import stem, tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import inference
from alphaedit_plugin.models.tokens import by_token_budget, pad_id

TOP = 5


@contextmanager
def seeded(lm: EditableModel, seed: int) -> Iterator[None]:
    """Draws inside depend on ``seed`` alone; the global random state is left as it was."""
    with rng.seeded(seed), torch.no_grad(), inference(lm.model):
        yield


def draw(lm: EditableModel, ids: Tensor, mask: Tensor, new_tokens: int, copies: int = 1) -> Tensor:
    """Go on from each row of ``ids``.

    Args:
        lm: the model; see `seeded`.
        ids: ``(n, length)``, padded on the left.
        mask: ``(n, length)``, 0 on the padding.
        new_tokens: how many to add; fewer where the model ends its text.
        copies: how many texts to draw per row.

    Returns:
        ``(n · copies, length + new_tokens)`` token ids, the given ones first.

    Raises:
        NumericalError: the model's predictions are not numbers.
    """
    config = GenerationConfig(
        do_sample=True,
        top_k=TOP,
        max_new_tokens=new_tokens,
        num_return_sequences=copies,
        pad_token_id=pad_id(lm),
        eos_token_id=lm.tokenizer.eos_token_id,
    )
    drawn: Tensor = lm.model.generate(
        ids, attention_mask=mask, generation_config=config, logits_processor=[_refuse_nan]
    )
    return drawn


def draw_texts(
    lm: EditableModel,
    prompts: Sequence[str],
    length: int = 100,
    seed: int = 0,
    budget: int = 16384,
) -> list[str]:
    """One text per prompt, the prompt at its beginning.

    Args:
        lm: the model as it is now.
        prompts: what to go on from; blanks after them are dropped.
        length: tokens of each text with its prompt, at most the model's context; ROME's 100.
        seed: of all draws; a text also depends on the prompts it is drawn together with.
        budget: padded tokens per batch.

    Raises:
        NumericalError: see `draw`.
    """
    length = min(length, lm.context_length or length)
    rows = [tokenise(lm.tokenizer, stem(prompt))[: length - 1] for prompt in prompts]
    texts = [""] * len(rows)
    with seeded(lm, seed):
        for indices in by_token_budget([length] * len(rows), budget):
            widest = max(len(rows[i]) for i in indices)
            padding = [widest - len(rows[i]) for i in indices]
            filler = pad_id(lm)
            ids = torch.tensor(
                [[filler] * p + rows[i] for p, i in zip(padding, indices, strict=True)]
            )
            mask = torch.tensor([[0] * p + [1] * (widest - p) for p in padding])
            drawn = draw(lm, ids.to(lm.device), mask.to(lm.device), length - widest)
            for row, p, index in zip(drawn.tolist(), padding, indices, strict=True):
                texts[index] = lm.tokenizer.decode(row[p:], skip_special_tokens=True)
    return texts


def _refuse_nan(_: Tensor, scores: Tensor) -> Tensor:
    """Stop a generation whose next token cannot be drawn."""
    if scores.isnan().any():
        raise NumericalError(
            "the model predicts nan: its weights are damaged, or overflow (try "
            "model.dtype=bfloat16 or float32)"
        )
    return scores
