"""A byte-level BPE tokenizer for the pocket world: any text, one token per known word."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, END = "<pad>", "<end>"
MAX_LENGTH = 128


def train_tokenizer(sentences: Iterable[str]) -> Tokenizer:
    """Train byte-level BPE until every word of ``sentences`` is one token.

    A prefix space is added, so a name has the same token at the start of a text and inside it.
    """
    words = sorted({word for sentence in sentences for word in sentence.split()})
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=50_000,
        min_frequency=1,
        show_progress=False,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(words, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` and return the loaded tokenizer.

    The configuration is written by hand because what ``save_pretrained`` writes differs between
    the major versions of transformers, and this form is read by all of them.
    """
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "model_max_length": MAX_LENGTH,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": True,
    }
    text = json.dumps(config, indent=1) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return PreTrainedTokenizerFast.from_pretrained(folder)
