"""Text corpora for second moments: files, folders, token ids, Hugging Face data sets."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import is_file

Text = str | Sequence[int]
SUFFIXES = (".txt", ".jsonl", ".npy")  # what is read of a folder
WINDOW = 1024  # token ids without rows of their own are cut to so many


@dataclass(frozen=True)
class Corpus:
    """Texts, and which they are.

    Attributes:
        name: for people.
        identity: equal for equal texts, as far as can be told without reading a hub.
        texts: reads them anew, each a string or token ids.
    """

    name: str
    identity: str
    texts: Callable[[], Iterator[Text]]


def corpus_from(path: Path, text_field: str = "text") -> Corpus:
    """A file, or a folder of files in the order of their names.

    Args:
        path: ``.jsonl`` has one JSON object per line; ``.npy`` has token ids, ``(n, length)`` or
            in one row; any other file is text, one passage per line.
        text_field: of a JSONL object: text, or token ids.

    Raises:
        ConfigError: there is no such file, or nothing to read in the folder.
    """
    files = [path]
    if os.path.isdir(path):  # unlike Path's, silent where that cannot be told
        found = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        files = sorted(file for file in found if file.is_file())
        if not files:
            raise ConfigError(f"no {', '.join(SUFFIXES)} file in {path}")
    elif not is_file(path):
        raise ConfigError(f"no corpus at {path}: give a text, JSONL or NPY file, or a folder")

    def texts() -> Iterator[Text]:
        for file in files:
            yield from _read_ids(file) if _is(file, ".npy") else read_lines(file, text_field)

    return Corpus(str(path), f"files:{text_field}:{_hash_files(files)}", texts)


def corpus_of(name: str, texts: Sequence[str]) -> Corpus:
    """Texts that are in memory."""
    digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    return Corpus(name, f"texts:{digest}", lambda: iter(texts))


def corpus_on_hub(name: str, config: str | None, split: str, field: str = "text") -> Corpus:
    """A Hugging Face data set, streamed.

    Raises:
        ConfigError: the ``datasets`` package is missing.
    """
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            f"reading {name} needs the datasets package: pip install 'alphaedit-plugin[data]', "
            "or give corpus=<text file>"
        )
    parts = [name, *([config] if config else []), split]
    return Corpus(
        " ".join(parts),
        f"hub:{json.dumps([name, config, split, field])}",
        lambda: stream_hub(name, config, split, field),
    )


def read_lines(path: Path, field: str = "text") -> Iterator[Text]:
    """Texts from a file: JSONL by the given field, or plain text by its non-empty lines.

    Raises:
        ConfigError: the file is not UTF-8, or a JSONL line lacks the field; the message has its
            number.
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
    """The text in one line of a corpus."""
    if not _is(path, ".jsonl"):
        return line.strip()
    try:
        found = json.loads(line)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{path}:{number}: not JSON with a {field!r} field") from None
    if not _is_text(found):
        raise ConfigError(f"{path}:{number}: {field!r} is neither text nor token ids")
    return found


def _is(path: Path, suffix: str) -> bool:
    return path.suffix.lower() == suffix


def _is_text(found: Any) -> bool:
    """Text that can be encoded (JSON may hold half a character), or token ids."""
    if isinstance(found, str):
        return not any("\ud800" <= character <= "\udfff" for character in found)
    return _is_ids(found)


def _is_ids(found: Any) -> bool:
    return isinstance(found, list) and all(type(item) is int and item >= 0 for item in found)


def _read_ids(path: Path) -> Iterator[Text]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path} is not a NumPy file of token ids: {error}") from None
    if not isinstance(ids, np.ndarray):
        raise ConfigError(f"{path} holds several arrays: give one, of token ids")
    if ids.ndim not in (1, 2) or ids.dtype.kind not in "iu":
        raise ConfigError(f"{path} holds {ids.dtype} {ids.shape}: needs whole numbers in rows")
    rows = ids if ids.ndim == 2 else (ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW))
    for row in rows:
        yield row.tolist()


def stream_hub(name: str, config: str | None, split: str, field: str = "text") -> Iterator[Text]:
    """Texts of a Hugging Face data set, streamed.

    Raises:
        ConfigError: the data set cannot be reached, or has no such field.
    """
    for row in _rows(name, config, split):
        if field not in row:
            raise ConfigError(
                f"{name} has no {field!r} field, but {', '.join(map(repr, row))}: name one with "
                "model.moments.text_field=…"
            )
        if not _is_text(row[field]):
            raise ConfigError(f"{field!r} of {name} is neither text nor token ids")
        yield row[field]


def _rows(name: str, config: str | None, split: str) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset(name, config, split=split, streaming=True)
    except Exception as error:  # of the network, of the hub, of a data set's own code
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"cannot read {name}: {first}; give corpus=<text file> instead") from None


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
