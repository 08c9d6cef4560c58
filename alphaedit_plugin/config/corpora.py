"""What second moments are made from: files, a data set on the hub, or the model's own text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from alphaedit_plugin.common.cache import Cache, hash_of
from alphaedit_plugin.common.console import progress_bar
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.tensor_file import read_tensors, write_tensors
from alphaedit_plugin.config.model import ModelConfig
from alphaedit_plugin.data.corpus import Corpus, Text, corpus_from, corpus_of, corpus_on_hub
from alphaedit_plugin.data.pocket_world.assets import read_texts
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import weights_digest
from alphaedit_plugin.models.writing import Manuscript, write_texts

Key = dict[str, object]

SELF = "self"  # corpus=self; a file of that name is ./self
PER_DIMENSION = 32  # tokens that a model writes for each dimension of its keys
PART = 64  # texts that are written at once, and cached together


def corpus_name(config: ModelConfig) -> str:
    """What the second moments of this model are made from, for people.

    Raises:
        ConfigError: it is not there.
    """
    return "text that the model writes itself" if _writes(config) else _given(config).name


def corpus_for(lm: EditableModel, config: ModelConfig, hide: bool = False) -> Corpus:
    """What the second moments of this model are made from.

    Args:
        lm: the model, which writes its own text as it is now, once that is asked for.
        config: names the source.
        hide: hide the progress bar.

    Raises:
        ConfigError: it is not there.
    """
    if not _writes(config):
        return _given(config)
    written, limit = config.moments.written, config.moments.tokens
    manuscript = Manuscript.of(lm, written.length, written.seed, written.start)
    widest = max(lm.key_size(layer) for layer in range(lm.depth))
    tokens = min(written.tokens or PER_DIMENSION * widest, limit or sys.maxsize)
    key: Key = {"weights": weights_digest(lm), **asdict(manuscript)}
    cache = Cache.usable() if config.moments.cache else None

    def texts() -> Iterator[Text]:
        # All are written before the first is read: reading shows a bar of its own.
        with progress_bar("the model writes", tokens, "tokens", hide=hide) as bar:
            write = partial(write_texts, lm, manuscript, on_tokens=bar.update)
            kept = write if cache is None else partial(_kept, cache, key, write)
            return iter(_texts(kept, tokens))

    return Corpus(corpus_name(config), f"written:{hash_of(key)}:{tokens}", texts)


def _writes(config: ModelConfig) -> bool:
    """Whether the text is the model's own: asked for, or nothing else is named."""
    moments = config.moments
    nothing = moments.corpus is None and config.path is not None and moments.hub is None
    return moments.corpus == SELF or nothing


def _given(config: ModelConfig) -> Corpus:
    moments = config.moments
    if moments.corpus is not None:
        return corpus_from(Path(moments.corpus).expanduser(), moments.text_field)
    if config.path is None:
        return corpus_of("the pocket world", read_texts("corpus.txt"))
    assert moments.hub is not None
    return corpus_on_hub(moments.hub, moments.hub_config, moments.hub_split, moments.text_field)


def _texts(write: Callable[[range], list[list[int]]], tokens: int) -> list[list[int]]:
    """The first texts of a model, ``tokens`` in all."""
    texts: list[list[int]] = []
    missing, start = tokens, 0
    while missing:
        part = write(range(start, start + PART))
        if not any(part):
            raise ConfigError(
                "the model writes nothing, as it ends every text at once: set "
                "model.moments.written.start to the token that begins its documents"
            )
        for text in part:
            if not missing:
                break
            texts.append(text[:missing])
            missing -= len(texts[-1])
        start += PART
    return texts


def _kept(
    cache: Cache, key: Key, write: Callable[[range], list[list[int]]], numbers: range
) -> list[list[int]]:
    """Texts from the cache, or written and cached; each part is a file, so a killed run resumes."""
    key = key | {"first": numbers.start, "count": len(numbers)}
    return cache.computed("texts", key, partial(write, numbers), _read, partial(_write, key))


def _read(path: Path) -> list[list[int]]:
    tensors, _ = read_tensors(path)
    return [text.tolist() for text in tensors["ids"].split(tensors["lengths"].tolist())]


def _write(key: Key, path: Path, texts: Sequence[Sequence[int]]) -> None:
    ids = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
    lengths = torch.tensor([len(text) for text in texts])
    write_tensors(path, {"ids": ids, "lengths": lengths}, {"key": key})
