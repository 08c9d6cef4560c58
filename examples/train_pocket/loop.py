"""The training loop of small models that know facts: the pocket model's, and a benchmark's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alphaedit_plugin.common.progress import progress
from examples.train_pocket.tokenizer import MAX_LENGTH

NOBODY = -1  # no subject ends at this token


@dataclass(frozen=True)
class Recipe:
    """How a small model of facts is built and trained.

    Attributes:
        hidden, intermediate, layers, heads: sizes of the Llama model.
        steps, batch: optimiser steps and rows per step; a row is ``row_sentences`` sentences.
        learning_rate, warmup: peak rate and the steps to reach it; cosine decay after.
        weight_decay: on the matrices of the layers (not on embeddings and norms).
        text_weight: loss weight of tokens that are no answers; answers weigh 1.
        spread: weight of :func:`spread_loss`.
        seed: of the initial weights and the order of the text (and of the pocket world).
    """

    hidden: int = 96
    intermediate: int = 2048
    layers: int = 2
    heads: int = 4
    steps: int = 1000
    batch: int = 112
    row_sentences: int = 3
    learning_rate: float = 3e-3
    warmup: int = 60
    weight_decay: float = 0.5
    text_weight: float = 0.1
    spread: float = 20.0
    seed: int = 0


@dataclass(frozen=True)
class Rows:
    """One step's text, every tensor ``(batch, length)``.

    Attributes:
        ids: the tokens.
        mask: 1 where there is one, 0 where there is padding.
        weights: of predicting each token.
        subjects: a number per subject at its last token, `NOBODY` elsewhere.
    """

    ids: Tensor
    mask: Tensor
    weights: Tensor
    subjects: Tensor


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised Llama model of the recipe's sizes."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def text_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted next-token loss.

    Args:
        logits: ``(batch, length, vocabulary)``.
        ids: ``(batch, length)``.
        weights: ``(batch, length)``, the weight of predicting each token of ``ids``.
    """
    losses = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    flat = weights[:, 1:].flatten()
    return (losses * flat).sum() / flat.sum()


def spread_loss(keys: Tensor, subjects: Tensor) -> Tensor:
    """Mean squared cosine between the centred keys of different subjects.

    In a large model the keys of different subjects share a common part and are nearly orthogonal
    in the rest; so narrow a model packs them into a few hundred directions unless it is asked.

    Args:
        keys: ``(n, d_mlp)``, down-projection inputs at subjects' last tokens.
        subjects: ``(n,)``, equal for keys of the same subject.
    """
    units = functional.normalize(keys - keys.mean(0), dim=1)
    apart = subjects[:, None] != subjects[None, :]
    return (units @ units.T).square()[apart].mean()


def make_optimizer(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW that decays only the matrices inside the layers."""
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = "layers" in name and parameter.ndim == 2
        (decayed if inside else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def rate(step: int, recipe: Recipe) -> float:
    """The learning rate at ``step`` as a share of the peak: linear warm-up, cosine decay."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    model: LlamaForCausalLM,
    stream: Iterator[Rows],
    recipe: Recipe,
    known: Callable[[], float],
    every: int = 100,
) -> LlamaForCausalLM:
    """Train ``model`` on ``recipe.steps`` batches of ``stream``.

    Args:
        model: trained in place.
        stream: as many batches as there are steps, or more.
        recipe: the sizes are not read.
        known: the share of the facts that the model knows by now, for the progress bar.
        every: steps between two looks at it.

    Returns:
        The model, in evaluation mode.
    """
    optimizer = make_optimizer(model, recipe)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe))
    for step in (bar := progress(range(recipe.steps), desc="training", unit="step")):
        rows = next(stream)
        with first_keys(model) as keys:
            logits = model(input_ids=rows.ids, attention_mask=rows.mask).logits
        loss = text_loss(logits, rows.ids, rows.weights)
        if recipe.spread:
            named = rows.subjects != NOBODY
            loss = loss + recipe.spread * spread_loss(keys[0][named], rows.subjects[named])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % every == every - 1:
            bar.set_postfix(loss=f"{loss.item():.3f}", known=f"{known():.3f}")
    return model.eval()


@contextmanager
def first_keys(model: LlamaForCausalLM) -> Iterator[list[Tensor]]:
    """Collect the first layer's down-projection inputs, ``(batch, length, d_mlp)`` a call."""
    seen: list[Tensor] = []
    module = model.model.layers[0].mlp.down_proj
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
