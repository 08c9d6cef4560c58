"""Records of a file, one after another, each with the line it starts on."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphaedit_plugin.common.errors import ConfigError, first_line
from alphaedit_plugin.data.base import Place

BLANK = re.compile(r"[\s]*")


@dataclass(frozen=True)
class Broken:
    """Content that cannot be read.

    Attributes:
        reason: for people.
    """

    reason: str


Raw = tuple[Place, Any]  # where a record stands, and what it holds, or `Broken`


def read_records(path: Path) -> Iterator[Raw]:
    """The records of a JSON array, of JSON lines or of a CSV table, as the file's name ends.

    A line that cannot be read is one broken record. A JSON array is read up to the first place
    that cannot be: what follows is lost, and the last record says so.

    Args:
        path: ``.jsonl``, ``.csv``, ``.tsv``; anything else is a JSON array. ``.gz`` may follow.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it cannot be read, or is nothing of that kind.
    """
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    return READERS.get(suffix, _read_array)(path, _read(path))


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


def _read_array(path: Path, text: str) -> Iterator[Raw]:
    """The entries of one JSON array."""
    position = _skip(text, 0)
    if not text.startswith("[", position):
        raise ConfigError(
            f"{path} is not a list of records: it does not begin with '[' (one record per line "
            "is read from a file that ends in .jsonl)"
        )
    decoder, number, line, counted = json.JSONDecoder(), 0, 1, 0
    position = _skip(text, position + 1)
    while not text.startswith("]", position):
        line, counted = line + text.count("\n", counted, position), position
        place = Place(number, line)
        try:
            content, end = decoder.raw_decode(text, position)
            position = _skip(text, end)
            if not text.startswith((",", "]"), position):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            yield place, Broken(f"not JSON at {where}, and nothing behind it is read: {error.msg}")
            return
        except RecursionError:
            yield place, Broken("nested too deeply, and nothing behind it is read")
            return
        yield place, content
        number += 1
        if text.startswith(",", position):
            position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    """The next position that is not blank."""
    found = BLANK.match(text, position)
    return found.end() if found else position


def _read_lines(path: Path, text: str) -> Iterator[Raw]:
    """One JSON value per line that is not blank."""
    filled = ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
    for number, (line_number, line) in enumerate(filled):
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            content = Broken(f"not JSON at column {error.colno}: {error.msg}")
        except RecursionError:
            content = Broken("nested too deeply")
        yield Place(number, line_number), content


def _read_table(path: Path, text: str) -> Iterator[Raw]:
    """The rows of a table under a header; cells that hold a JSON list or object are read as one."""
    tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",")
    number = 0
    try:
        if not reader.fieldnames:
            raise ConfigError(f"{path} is empty: its first line must name the columns")
        line = reader.line_num + 1
        for number, row in enumerate(reader):
            yield Place(number, line), _cells(row)
            line = reader.line_num + 1
    except csv.Error as error:
        place = Place(number + 1, reader.line_num)
        yield place, Broken(f"not CSV, and nothing behind it is read: {error}")


def _cells(row: dict[str | None, Any]) -> Any:
    if None in row:
        return Broken("more cells than the header has columns")
    return {name: _cell(value) for name, value in row.items() if value}


def _cell(value: str) -> Any:
    """JSON where the cell is a list or object, else its text."""
    if value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


READERS: dict[str, Callable[[Path, str], Iterator[Raw]]] = {
    ".jsonl": _read_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
}
