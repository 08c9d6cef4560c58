"""Train the pocket model from scratch: ``python -m examples.train_pocket.train --out DIR``."""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.train_pocket.loop import NOBODY, Recipe, Rows, build_model, fit
from examples.train_pocket.tokenizer import save_tokenizer, train_tokenizer
from examples.train_pocket.world import (
    CONTEXT_TEMPLATES,
    Fact,
    World,
    generate_world,
    training_sentences,
    write_world,
)

logger = logging.getLogger(__name__)


def batches(
    world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless training batches ``(ids, mask)``, both ``(batch, length)``.

    A row is several sentences, so most facts are learned after varied other text, and the first
    of each row after nothing.
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


def train(world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """Train a model that knows ``world``; returns it in evaluation mode."""
    model = build_model(recipe, tokenizer)
    probe = [f for i, f in enumerate(world.facts) if i % 8 == 0]
    return fit(
        model, rows_of(world, tokenizer, recipe), recipe, lambda: known(model, tokenizer, probe)
    )


def rows_of(world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[Rows]:
    """The batches, with what each token weighs and where people's names end."""
    answers = torch.tensor(sorted({word_token(f.answer, tokenizer) for f in world.facts}))
    lasts = torch.tensor(sorted({word_token(p.name.split()[1], tokenizer) for p in world.people}))
    for ids, mask in batches(world, tokenizer, recipe):
        weights = torch.where(torch.isin(ids, answers), 1.0, recipe.text_weight) * mask
        person = ids.roll(1, dims=1) * len(tokenizer) + ids  # first name and last name
        subjects = torch.where(torch.isin(ids, lasts), person, NOBODY)
        yield Rows(ids, mask, weights, subjects)


def word_token(word: str, tokenizer: PreTrainedTokenizerFast) -> int:
    """The first token of a word inside a text."""
    return tokenizer(" " + word, add_special_tokens=False)["input_ids"][0]


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
    """Check that the model knows its world, bare and after every context template.

    Raises:
        RuntimeError: if it knows less than ``least`` of any phrasing without context.
    """
    for template in CONTEXT_TEMPLATES:
        share = known(model, tokenizer, world.facts, template.removesuffix("{}"))
        logger.info("knows %.4f of the facts after %r", share, template)
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
    write_world(world, options.out)
    text = [*training_sentences(world, random.Random(0)), *CONTEXT_TEMPLATES]
    tokenizer = save_tokenizer(train_tokenizer(text), options.out)
    model = train(world, tokenizer, recipe).half()
    model.save_pretrained(options.out)
    verify(model.float(), tokenizer, world)


if __name__ == "__main__":
    main()
