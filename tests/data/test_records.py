"""Records of JSON, JSON lines and tables, with the line each starts on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.records import Broken, read_records
from tests.data.files import write

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v, max_size=3)
)
blanks = st.text(" \t\n\r", max_size=3)


def contents(path: Path) -> list[Any]:
    return [content for _, content in read_records(path)]


def lines(path: Path) -> list[int | None]:
    return [place.line for place, _ in read_records(path)]


@given(st.lists(st.tuples(blanks, values, blanks), max_size=5), blanks)
def test_an_array_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, Any, str]], blank: str
) -> None:
    body = ",".join(before + json.dumps(value) + after for before, value, after in parts)
    path = write(tmp_path_factory.mktemp("array"), f"{blank}[{blank}{body}]{blank}")
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{blank}[{blank}{body}]{blank}")
    assert contents(path) == json.loads(path.read_bytes())


def test_lines_of_an_array(tmp_path: Path) -> None:
    path = write(tmp_path, '[\n{"a": 1},\n\n{\n"b": [2,\n3]},\n{"c": "\\n"}, {}]\n')
    assert lines(path) == [2, 4, 7, 7]


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ('{"b": ', "not JSON at line 3, column 7"),
        ("", "not JSON at line 3, column 1"),
        ('{"b": 2} {"c": 3}]', "not JSON at line 3, column 10"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=["cut inside", "cut between", "no comma", "too deep"],
)
def test_a_damaged_array_gives_what_stands_before_the_damage(
    tmp_path: Path, tail: str, reason: str
) -> None:
    first, broken = read_records(write(tmp_path, '[\n{"a": 1},\n' + tail))
    assert first[1] == {"a": 1}
    assert isinstance(broken[1], Broken)
    assert (broken[0].record, broken[0].line) == (1, 3)
    assert reason in broken[1].reason
    assert "nothing behind it is read" in broken[1].reason


@pytest.mark.parametrize("text", ["", "{}", '"text"', "hello"])
def test_what_is_no_array_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=r"is not a list of records.*\.jsonl"):
        list(read_records(path))


def test_a_bad_line_costs_one_record(tmp_path: Path) -> None:
    deep = "[" * 100_000
    path = write(tmp_path, f'\n{{"a": 1}}\n{{"b"\n\n{deep}\n{{"c": "\u2028"}}\n', "edits.jsonl")
    places, found = zip(*read_records(path), strict=True)
    assert [place.line for place in places] == [2, 3, 5, 6]
    assert [place.record for place in places] == [0, 1, 2, 3]
    assert (found[0], found[3]) == ({"a": 1}, {"c": "\u2028"})
    assert "not JSON at column 5" in found[1].reason
    assert "nested too deeply" in found[2].reason


def test_a_table(tmp_path: Path) -> None:
    rows = 'a,b\n1,"two\nlines"\n,x\n"[""p"", ""q""]",[r\n1,2,3\n'
    path = write(tmp_path, rows, "edits.csv")
    assert contents(path)[:3] == [
        {"a": "1", "b": "two\nlines"},
        {"b": "x"},
        {"a": ["p", "q"], "b": "[r"},
    ]
    assert lines(path) == [2, 4, 5, 6]
    assert "more cells" in contents(path)[3].reason
    tabs = write(tmp_path, "a\tb\n1\t2, 3\n", "edits.tsv")
    assert contents(tabs) == [{"a": "1", "b": "2, 3"}]


def test_a_table_needs_a_header(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is empty: its first line must name the columns"):
        contents(write(tmp_path, "", "edits.csv"))


def test_a_cell_beyond_what_csv_reads_is_one_broken_record(tmp_path: Path) -> None:
    path = write(tmp_path, "a\nfine\n" + "x" * 200_000 + "\n", "edits.csv")
    (_, first), (place, broken) = read_records(path)
    assert first == {"a": "fine"}
    assert (place.record, isinstance(broken, Broken)) == (1, True)


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
    ],
    ids=["no text", "not packed", "cut"],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        list(read_records(path))
    assert "\n" not in str(caught.value)


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        list(read_records(tmp_path))
