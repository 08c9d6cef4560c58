"""Text corpora for second moments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from alphaedit_plugin.errors import ConfigError, first_line


def check_corpus(path: Path) -> None:
    """Refuse a corpus that is not there.

    Raises:
        ConfigError: no such file.
    """
    if not path.is_file():
        raise ConfigError(f"no corpus at {path}: give a text or JSONL file")


def read_corpus(path: Path, field_name: str = "text") -> Iterator[str]:
    """Texts from a file: JSONL by the given field, or plain text by its non-empty lines.

    Raises:
        ConfigError: no such file, one that is not UTF-8, or a JSONL line without the field; the
            message has its number.
    """
    check_corpus(path)
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _text(path, number, line, field_name)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from None


def _text(path: Path, number: int, line: str, field_name: str) -> str:
    """The text in one line of a corpus."""
    if path.suffix != ".jsonl":
        return line.strip()
    try:
        return str(json.loads(line)[field_name])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}:{number}: not JSON with a {field_name!r} field") from None


def check_hub(name: str) -> None:
    """Refuse a data set of the hub where nothing can read it.

    Raises:
        ConfigError: the ``datasets`` package is missing.
    """
    try:
        import datasets  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"reading {name} needs the datasets package: pip install 'alphaedit-plugin[data]', "
            "or give model.moments.corpus=<text file>"
        ) from None


def stream_hub(name: str, config: str | None, field_name: str = "text") -> Iterator[str]:
    """Texts of a Hugging Face data set's train split, streamed.

    Raises:
        ConfigError: the ``datasets`` package is missing, or the data set cannot be reached or
            has no such field.
    """
    check_hub(name)
    from datasets import load_dataset

    try:
        rows = load_dataset(name, config, split="train", streaming=True)
        for row in rows:
            yield row[field_name]
    except KeyError:
        raise ConfigError(
            f"{name} has no {field_name!r} field: give model.moments.corpus=<text file> instead"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read {name}: {first_line(error)}; "
            "give model.moments.corpus=<text file> instead"
        ) from None
