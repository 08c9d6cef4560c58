"""Records of JSON arrays, JSON lines and tables."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.records import read_records
from tests.data.files import write


def contents(path: Path) -> list[Any]:
    return [content for _, content in read_records(path)]


def lines(path: Path) -> list[int | None]:
    return [location.line for location, _ in read_records(path)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is not JSON: Expecting value: line 1.*\.jsonl"),
        ('[\n{"a": 1},\n{"b": ', "is not JSON: Expecting value: line 3 column 7"),
        ('{"a": 1}\n{"a": 2}', "is not JSON: Extra data: line 2 column 1"),
        ("[" * 100_000, "is not JSON: "),
        ('{"a": 1}', "is not a list of records"),
    ],
    ids=["empty", "cut", "lines", "too deep", "object"],
)
def test_what_is_not_an_array_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contents(write(tmp_path, text))


def test_a_bad_line_costs_one_record(tmp_path: Path) -> None:
    deep = "[" * 100_000
    path = write(tmp_path, f'\n{{"a": 1}}\n{{"b"\n\n{deep}\n{{"c": "\u2028"}}\n', "edits.jsonl")
    locations, found = zip(*read_records(path), strict=True)
    assert [location.line for location in locations] == [2, 3, 5, 6]
    assert [location.record for location in locations] == [0, 1, 2, 3]
    assert (found[0], found[3]) == ({"a": 1}, {"c": "\u2028"})
    assert "not JSON: Expecting ':' delimiter: line 1 column 5" in str(found[1])
    assert "not JSON: " in str(found[2])


def test_a_table(tmp_path: Path) -> None:
    rows = 'a,b\n1,"two\nlines"\n,x\n"[""p"", ""q""]",[r\n1,2,3\n'
    path = write(tmp_path, rows, "edits.csv")
    assert contents(path)[:3] == [
        {"a": "1", "b": "two\nlines"},
        {"b": "x"},
        {"a": ["p", "q"], "b": "[r"},
    ]
    assert lines(path) == [2, 4, 5, 6]
    assert "more cells" in str(contents(path)[3])
    tabs = write(tmp_path, "a\tb\n1\t2, 3\n", "edits.tsv")
    assert contents(tabs) == [{"a": "1", "b": "2, 3"}]


def test_a_table_needs_a_header(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is empty: its first line must name the columns"):
        contents(write(tmp_path, "", "edits.csv"))


def test_a_cell_that_csv_cannot_read_is_one_bad_record(tmp_path: Path) -> None:
    path = write(tmp_path, "a\nfine\n" + "x" * 200_000 + "\n", "edits.csv")
    (_, first), (location, bad) = read_records(path)
    assert first == {"a": "fine"}
    assert location.record == 1
    assert "not CSV, and nothing after it is read" in str(bad)


@pytest.mark.parametrize("name", ["edits.json", "edits.jsonl", "edits.csv"])
def test_packed_files_and_byte_order_marks(tmp_path: Path, name: str) -> None:
    text = {"json": '[{"a": "1"}]', "jsonl": '{"a": "1"}', "csv": "a\n1\n"}[name.split(".")[1]]
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(text.encode("utf-8-sig")))
    assert contents(path) == [{"a": "1"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("edits.json", b"\xff\xfe\x00[", "is not UTF-8 text"),
        ("edits.json.gz", b"[]", "cannot be read"),
        ("edits.json.gz", gzip.compress(b"[" + b"0" * 99, mtime=0)[:20], "cannot be read"),
        ("", b"", "cannot be read: Is a directory"),
    ],
    ids=["not text", "not packed", "cut", "folder"],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    if name:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        contents(path)
    assert "\n" not in str(caught.value)
