"""Text corpora for second moments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from alphaedit_plugin.errors import ConfigError


def read_corpus(path: Path, field_name: str = "text") -> Iterator[str]:
    """Texts from a file: JSONL by the given field, or plain text by its non-empty lines.

    Raises:
        ConfigError: no such file, or a JSONL line without the field; the message has its number.
    """
    if not path.is_file():
        raise ConfigError(f"no corpus at {path}: give a text or JSONL file")
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            if path.suffix != ".jsonl":
                yield line.strip()
                continue
            try:
                yield str(json.loads(line)[field_name])
            except (ValueError, KeyError, TypeError):
                raise ConfigError(
                    f"{path}:{number}: not JSON with a {field_name!r} field"
                ) from None


def stream_hub(name: str, config: str | None, field_name: str = "text") -> Iterator[str]:
    """Texts of a Hugging Face data set's train split, streamed.

    Raises:
        ConfigError: the ``datasets`` package is missing, or the data set cannot be reached.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise ConfigError(
            f"reading {name} needs the datasets package: pip install 'alphaedit-plugin[data]', "
            "or give model.moments.corpus=<text file>"
        ) from None
    try:
        rows = load_dataset(name, config, split="train", streaming=True)
        for row in rows:
            yield row[field_name]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read {name}: {str(error).splitlines()[0]}; "
            "give model.moments.corpus=<text file> instead"
        ) from None
