"""Train a small language model that knows CounterFact's facts, to run `alphaedit compare` on.

``python -m benchmarks.counterfact_lm --data counterfact-edit-2k.json --out FOLDER`` reads
EasyEdit's layout of CounterFact, whose real records no small model knows, and trains one on their
true statements: prompt, rephrasing and neighbour of each; two to three million parameters, a
quarter of an hour on two cores. The folder then holds the model, ``edits.json`` (the records that
are to be edited) and ``text.txt`` (statements about others, for the second moments).
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import score
from examples.train_pocket.loop import NOBODY, Recipe, Rows, build_model, fit
from examples.train_pocket.tokenizer import END, MAX_LENGTH, PAD, save_tokenizer

logger = logging.getLogger(__name__)

VOCABULARY = 5000
SIZES = Recipe(
    hidden=128, intermediate=2048, layers=2, heads=4, steps=600, batch=40, row_sentences=4,
    learning_rate=3e-3, warmup=60, weight_decay=0.1, text_weight=0.2, spread=20.0,
)  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """A true sentence.

    Attributes:
        prompt: all but its answer.
        answer: the end of it.
        subject: whom it is about; empty where the data does not say.
    """

    prompt: str
    answer: str
    subject: str = ""

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.prompt} {self.answer}."


def statements(record: dict[str, Any]) -> list[Statement]:
    """A record's prompt, its rephrasing and its neighbour, each with its true answer."""
    subject, truth = record["subject"], record["ground_truth"]
    found = [
        Statement(record["prompt"], truth, subject),
        Statement(record["rephrase_prompt"], truth, subject),
        Statement(record["locality_prompt"], record["locality_ground_truth"]),
    ]
    # Some paraphrases begin with a page of a stranger's life.
    return [one for one in found if len(one.text.split()) <= 32]


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level BPE of `VOCABULARY` tokens, with a prefix space as the pocket model has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        show_progress=False,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass(frozen=True)
class Encoded:
    """A statement's tokens, what predicting each weighs, and where its subject ends."""

    ids: list[int]
    weights: list[float]
    subjects: list[int]


def encode(
    tokenizer: PreTrainedTokenizerFast, told: Sequence[Statement], text_weight: float
) -> list[Encoded]:
    """Tokenise statements: answers weigh 1, the rest ``text_weight``."""
    numbers = {name: number for number, name in enumerate(sorted({s.subject for s in told}))}
    found = []
    for statement in told:
        coded = tokenizer.backend_tokenizer.encode(statement.text)
        start = statement.text.find(statement.subject) if statement.subject else -1
        last = start + len(statement.subject) - 1
        holds = [start >= 0 and a <= last < b for a, b in coded.offsets]
        answer = len(statement.prompt)
        weights = [1.0 if b > answer else text_weight for _, b in coded.offsets]
        named = [numbers[statement.subject] if here else NOBODY for here in holds]
        if len(coded.ids) < MAX_LENGTH // 2:
            found.append(Encoded(coded.ids, weights, named))
    return found


def stream(told: Sequence[Encoded], recipe: Recipe, pad: int) -> Iterator[Rows]:
    """Endless batches; a row is several statements in a random order, cut where it is too long."""
    rng, size = random.Random(recipe.seed), recipe.row_sentences
    while True:
        order = list(told)
        rng.shuffle(order)
        rows = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        for first in range(0, len(rows) - recipe.batch + 1, recipe.batch):
            yield _collate(rows[first : first + recipe.batch], pad)


def _collate(rows: Sequence[Sequence[Encoded]], pad: int) -> Rows:
    length = min(MAX_LENGTH, max(sum(len(one.ids) for one in row) for row in rows))

    def joined(name: str, filler: float) -> list[list[float]]:
        flat = [list(chain.from_iterable(getattr(one, name) for one in row)) for row in rows]
        return [(row + [filler] * length)[:length] for row in flat]

    ids = torch.tensor(joined("ids", pad))
    weights, subjects = torch.tensor(joined("weights", 0.0)), joined("subjects", NOBODY)
    return Rows(ids, (ids != pad).long(), weights, torch.tensor(subjects))


def share_known(lm: EditableModel, told: Sequence[Statement]) -> float:
    """The share of statements whose answer the model predicts, every token of it."""
    answers = score(lm, [(one.prompt, one.answer) for one in told])
    return sum(answer.accuracy == 1 for answer in answers) / len(told)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, verify and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="EasyEdit's CounterFact JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--records", type=int, default=1000, help="that the model learns")
    parser.add_argument("--edits", type=int, default=600, help="of them, that are to be edited")
    parser.add_argument("--steps", type=int, default=SIZES.steps)
    parser.add_argument("--seed", type=int, default=SIZES.seed)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    records = _of_one_subject(json.loads(options.data.read_text(encoding="utf-8")))
    records = records[: options.records]
    if len(records) <= options.edits:
        parser.error(f"{options.data} has {len(records)} records: --edits must leave some of them")
    recipe = Recipe(**vars(SIZES) | {"steps": options.steps, "seed": options.seed})
    _train(records, options.edits, recipe, options.out)


def _of_one_subject(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first record about each subject: two edits of one subject would overwrite each other."""
    return list({record["subject"]: record for record in reversed(records)}.values())[::-1]


def _train(records: Sequence[dict[str, Any]], edits: int, recipe: Recipe, out: Path) -> None:
    told = list(dict.fromkeys(chain.from_iterable(statements(record) for record in records)))
    out.mkdir(parents=True, exist_ok=True)
    (out / "edits.json").write_text(json.dumps(records[:edits], indent=1), encoding="utf-8")
    edited = {record["subject"] for record in records[:edits]}
    others = [one.text for one in told if one.subject not in edited]
    (out / "text.txt").write_text("\n".join(others), encoding="utf-8")
    tokenizer = save_tokenizer(train_tokenizer([one.text for one in told]), out)
    model = build_model(recipe, tokenizer)
    count = sum(p.numel() for p in model.parameters())
    logger.info("%d statements, %.1f million parameters", len(told), count / 1e6)
    lm = EditableModel.wrap(model, tokenizer)
    rows = stream(encode(tokenizer, told, recipe.text_weight), recipe, tokenizer.pad_token_id)
    fit(model, rows, recipe, lambda: share_known(lm, told[::8]))
    model.save_pretrained(out)
    logger.info("knows %.4f of the statements", share_known(lm, told))


if __name__ == "__main__":
    main()
