"""The records of a file: a JSON array, JSON lines, or a CSV or TSV table."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alphaedit_plugin.common.errors import ConfigError, RequestError, first_line
from alphaedit_plugin.data.base import Location

Record = tuple[Location, Any]  # the content, or a `RequestError` where it cannot be read


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file; one that cannot be read does not cost the others.

    Args:
        path: ``.jsonl``, ``.csv`` or ``.tsv``; anything else is a JSON array. ``.gz`` may follow.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: the file as a whole cannot be read.
    """
    text = _read(path)
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    if suffix == ".jsonl":
        yield from _lines(text)
    elif suffix in (".csv", ".tsv"):
        yield from _rows(path, text, "," if suffix == ".csv" else "\t")
    else:
        yield from _array(path, text)


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(f"{path} cannot be read: {reason}") from None


def _array(path: Path, text: str) -> Iterator[Record]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        hint = " (a file of one record per line has to end in .jsonl)"
        raise ConfigError(f"{path} is not JSON: {first_line(error)}{hint}") from None
    if not isinstance(content, list):
        raise ConfigError(f"{path} is not a list of records: it does not begin with '['")
    for number, record in enumerate(content):
        yield Location(number), record


def _lines(text: str) -> Iterator[Record]:
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for number, (line_number, line) in enumerate(lines):
        content: Any
        try:
            content = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            content = RequestError(f"not JSON: {first_line(error)}")
        yield Location(number, line_number), content


def _rows(path: Path, text: str, delimiter: str) -> Iterator[Record]:
    """The rows under a header; a cell that holds a JSON list or object is read as one."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if not reader.fieldnames:
        raise ConfigError(f"{path} is empty: its first line must name the columns")
    number, line = 0, reader.line_num + 1
    try:
        for number, row in enumerate(reader):
            extra = RequestError("more cells than the header has columns")
            cells = {name: _cell(value) for name, value in row.items() if value and name}
            yield Location(number, line), extra if None in row else cells
            line = reader.line_num + 1
    except csv.Error as error:
        reason = f"not CSV, and nothing after it is read: {error}"
        yield Location(number + 1, line), RequestError(reason)


def _cell(value: str) -> Any:
    if value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
