"""Text corpora for second moments: files, folders, token ids, Hugging Face data sets."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alphaedit_plugin.common.errors import ConfigError, first_line
from alphaedit_plugin.common.files import is_file

Text = str | Sequence[int]
SUFFIXES = (".txt", ".jsonl", ".npy")  # read from a folder
ROW = 1024  # token ids in one row are cut into pieces of this length


@dataclass(frozen=True)
class Corpus:
    """Texts.

    Attributes:
        name: for people.
        identity: equal for equal texts, as far as can be told without reading a hub.
        texts: reads them from the start, each a string or token ids.
    """

    name: str
    identity: str
    texts: Callable[[], Iterator[Text]]


def corpus_of(name: str, texts: Sequence[str]) -> Corpus:
    """Texts that are in memory."""
    digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    return Corpus(name, f"texts:{digest}", lambda: iter(texts))


def corpus_from(path: Path, text_field: str = "text") -> Corpus:
    """A file, or a folder of files in the order of their names.

    Args:
        path: ``.jsonl`` has one JSON object per line; ``.npy`` has token ids, ``(n, length)`` or
            in one row; any other file is text, one passage per line.
        text_field: of a JSON object: text, or token ids.

    Raises:
        ConfigError: there is no such file, or nothing to read in the folder.
    """
    files = [path]
    if os.path.isdir(path):  # unlike Path.is_dir, False where access is denied
        inside = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        files = sorted(file for file in inside if file.is_file())
        if not files:
            raise ConfigError(f"no {', '.join(SUFFIXES)} file in {path}")
    elif not is_file(path):
        raise ConfigError(f"no corpus at {path}: give a text, JSONL or NPY file, or a folder")

    def texts() -> Iterator[Text]:
        for file in files:
            yield from _token_ids(file) if _is(file, ".npy") else read_lines(file, text_field)

    return Corpus(str(path), f"files:{text_field}:{_hash_files(files)}", texts)


def corpus_on_hub(name: str, config: str | None, split: str, field: str = "text") -> Corpus:
    """A Hugging Face data set, streamed.

    Raises:
        ConfigError: the ``datasets`` package is missing.
    """
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            f"reading {name} needs the datasets package: pip install 'alphaedit-plugin[data]', "
            "or give corpus=<text file>, or corpus=self for text that the model writes"
        )

    def texts() -> Iterator[Text]:
        for row in _hub_rows(name, config, split):
            if field not in row:
                raise ConfigError(
                    f"{name} has no {field!r} field, but {', '.join(map(repr, row))}: name one "
                    "with model.moments.text_field=…"
                )
            yield _checked(row[field], f"{field!r} of {name}")

    parts = [name, *([config] if config else []), split]
    return Corpus(" ".join(parts), f"hub:{json.dumps([name, config, split, field])}", texts)


def _hub_rows(name: str, config: str | None, split: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset(name, config, split=split, streaming=True)
    except Exception as error:  # from the network, the hub, or the data set's own code
        reason = first_line(error) or type(error).__name__
        raise ConfigError(
            f"cannot read {name}: {reason}; give corpus=<text file> instead"
        ) from None


def read_lines(path: Path, field: str = "text") -> Iterator[Text]:
    """The lines of a text file that are not blank, or the ``field`` of each line of JSONL.

    Raises:
        ConfigError: the file cannot be read; the message has the line's number.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _text(path, number, line, field)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def _text(path: Path, number: int, line: str, field: str) -> Text:
    if not _is(path, ".jsonl"):
        return line.strip()
    try:
        value = json.loads(line)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{path}:{number}: not JSON with a {field!r} field") from None
    return _checked(value, f"{path}:{number}: {field!r}")


def _checked(value: Any, name: str) -> Text:
    """Text without lone surrogates, which JSON may hold but no tokenizer can read; or token ids."""
    if isinstance(value, str):
        valid = not any("\ud800" <= character <= "\udfff" for character in value)
    else:
        valid = isinstance(value, list) and all(type(i) is int and i >= 0 for i in value)
    if not valid:
        raise ConfigError(f"{name} is neither text nor token ids")
    return value


def _token_ids(path: Path) -> Iterator[Text]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path} is not a NumPy file of token ids: {error}") from None
    if not isinstance(ids, np.ndarray):
        raise ConfigError(f"{path} holds several arrays: give one, of token ids")
    if ids.ndim not in (1, 2) or ids.dtype.kind not in "iu":
        raise ConfigError(f"{path} holds {ids.dtype} {ids.shape}: needs whole numbers in rows")
    rows = ids if ids.ndim == 2 else (ids[i : i + ROW] for i in range(0, len(ids), ROW))
    for row in rows:
        yield row.tolist()


def _is(path: Path, suffix: str) -> bool:
    return path.suffix.lower() == suffix


def _hash_files(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                digest.update(f"{file.name}:{file.suffix}:{file.stat().st_size}:".encode())
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    return digest.hexdigest()
