"""Train the pocket model from scratch: ``python -m alphaedit_plugin.pocket.train --out DIR``."""

from __future__ import annotations

import argparse
import logging
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alphaedit_plugin.pocket.tokenizer import MAX_LENGTH, save_tokenizer, train_tokenizer
from alphaedit_plugin.pocket.world import (
    CONTEXT_TEMPLATES,
    Fact,
    World,
    generate_world,
    save_world,
    training_sentences,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How the pocket model is built and trained.

    Attributes:
        hidden, intermediate, layers, heads: sizes of the Llama model.
        steps, batch: optimiser steps and rows per step; a row is ``row_sentences`` sentences.
        learning_rate, warmup: peak rate and the steps to reach it; cosine decay after.
        weight_decay: on the matrices of the layers (not on embeddings and norms).
        text_weight: loss weight of tokens that are no answers; answers weigh 1.
        spread: weight of :func:`spread_loss`.
        seed: of the world, the initial weights and the order of the text.
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


def batches(
    world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless training batches ``(ids, mask)``, both ``(batch, length)``.

    A row is several sentences, so most facts are learned behind varied other text, and the first
    of each row behind nothing.
    """
    rng = random.Random(recipe.seed)
    backend = tokenizer.backend_tokenizer
    rows: list[list[int]] = []
    while True:
        encoded = [e.ids for e in backend.encode_batch(list(training_sentences(world, rng)))]
        size = recipe.row_sentences
        rows += [
            list(chain.from_iterable(encoded[i : i + size]))
            for i in range(0, len(encoded) - size + 1, size)
        ]
        while len(rows) >= recipe.batch:
            chosen, rows = rows[: recipe.batch], rows[recipe.batch :]
            length = max(map(len, chosen))
            pad = tokenizer.pad_token_id
            ids = torch.tensor([row + [pad] * (length - len(row)) for row in chosen])
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in chosen])
            yield ids, mask


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


def train(world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """Train a model that knows ``world``; returns it in evaluation mode."""
    model = build_model(recipe, tokenizer)
    optimizer = make_optimizer(model, recipe)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe))
    answers = torch.tensor(sorted({word_token(f.answer, tokenizer) for f in world.facts}))
    stream = batches(world, tokenizer, recipe)
    lasts = torch.tensor(sorted({word_token(p.name.split()[1], tokenizer) for p in world.people}))
    probe = [f for i, f in enumerate(world.facts) if i % 8 == 0]
    for step in (bar := tqdm(range(recipe.steps), desc="training", unit="step")):
        ids, mask = next(stream)
        weights = torch.where(torch.isin(ids, answers), 1.0, recipe.text_weight) * mask
        with first_keys(model) as keys:
            logits = model(input_ids=ids, attention_mask=mask).logits
        loss = text_loss(logits, ids, weights)
        if recipe.spread:
            row, column = torch.isin(ids, lasts).nonzero(as_tuple=True)
            subjects = ids[row, column - 1] * len(tokenizer) + ids[row, column]
            loss = loss + recipe.spread * spread_loss(keys[0][row, column], subjects)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 100 == 99:
            bar.set_postfix(
                loss=f"{loss.item():.3f}", known=f"{known(model, tokenizer, probe):.3f}"
            )
    return model.eval()


def word_token(word: str, tokenizer: PreTrainedTokenizerFast) -> int:
    """The first token of a word inside a text."""
    return tokenizer(" " + word, add_special_tokens=False)["input_ids"][0]


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


@torch.no_grad()
def known(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    prefix: str = "",
    batch: int = 256,
) -> float:
    """The share of (fact, phrasing) pairs whose answer's first token is the greedy next token."""
    pairs = [(prefix + p, word_token(f.answer, tokenizer)) for f in facts for p in f.prompts]
    right = 0
    for start in range(0, len(pairs), batch):
        prompts, targets = zip(*pairs[start : start + batch], strict=True)
        inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="right")
        mask = inputs["attention_mask"]
        logits = model(input_ids=inputs["input_ids"], attention_mask=mask).logits
        last = logits[torch.arange(len(prompts)), mask.sum(1) - 1]
        right += int((last.argmax(-1) == torch.tensor(targets)).sum())
    return right / len(pairs)


def verify(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, least: float = 0.99
) -> None:
    """Check that the model knows its world, bare and behind every context template.

    Raises:
        RuntimeError: if it knows less than ``least`` of any phrasing without context.
    """
    for template in CONTEXT_TEMPLATES:
        share = known(model, tokenizer, world.facts, template.removesuffix("{}"))
        logger.info("knows %.4f of the facts behind %r", share, template)
        if template == "{}" and share < least:
            raise RuntimeError(f"the model knows {share:.4f} of its facts, wanted {least}")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, verify and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = Recipe(seed=options.seed, steps=options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    world = generate_world(recipe.seed)
    save_world(world, options.out / "world.json")
    text = [*training_sentences(world, random.Random(0)), *CONTEXT_TEMPLATES]
    tokenizer = save_tokenizer(train_tokenizer(text), options.out)
    model = train(world, tokenizer, recipe).half()
    model.save_pretrained(options.out)
    verify(model.float(), tokenizer, world)


if __name__ == "__main__":
    main()
