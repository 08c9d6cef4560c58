"""What all layouts of files have in common: reports and refusals."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.base import DATA, Location
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.source import FileData, FileOptions
from tests.data.files import load, write

FILES = [name for name in DATA if isinstance(DATA.get(name), FileData)]
OPTIONS = {"zsre": {"target": "alt"}}


def read_triple(record: Fields, options: FileOptions) -> list[Request]:
    return [Request.parse(record.text("q"), record.text("s"), record.text("a"))]


@pytest.fixture
def triples() -> Iterator[str]:
    DATA.register("triples", FileData("triples.json", "https://x.org", read_triple))
    yield "triples"
    DATA.unregister("triples")


def triple(subject: str, **change: Any) -> dict[str, Any]:
    return {"q": f"{subject} speaks", "s": subject, "a": "French"} | change


def test_the_last_of_many_records_is_reached(
    tmp_path: Path, triples: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bad records at the end of a long file cost themselves, and are said once, grouped."""
    records: list[Any] = [triple(f"N{i}") for i in range(20_000)]
    for number in (3, 4, 5, 6, 7, 8, 19_998):
        records[number] = {"q": "?"}
    records[19_999] = triple("N19999", a="")
    with caplog.at_level(logging.WARNING):
        data = load(triples, write(tmp_path, records))
    assert len(data.requests) == 19_992
    assert data.locations[-1] == Location(19_997)
    assert data.dropped[-2].location == Location(19_998)
    (message,) = caplog.messages
    assert "triples, edits.json: 8 records dropped: 7 × no 's' in it [record 3, " in message
    assert "and 2 more]; 1 × a is '': needs text [record 19999]" in message
    assert "\n" not in message


def test_faults_that_differ_only_in_names_are_one_group(
    tmp_path: Path, triples: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [triple(name, q="Who speaks?") for name in ("Boris", "Clara", "O'Neil")]
    load(triples, write(tmp_path, [triple("Ada"), *bad]))
    assert "3 × such as: subject 'Boris' is not in prompt 'Who speaks?'" in caplog.text


def test_nothing_usable_is_an_error_that_says_what_was_expected(
    tmp_path: Path, triples: str
) -> None:
    path = write(tmp_path, [{}, {}])
    with pytest.raises(ConfigError) as caught:
        load(triples, path)
    assert str(caught.value) == (
        f"{path} has nothing to use as data=triples: 2 × no 'q' in it [record 0, record 1]; "
        "get triples.json from https://x.org"
    )
    with pytest.raises(ConfigError, match="nothing to use as data=triples: it holds no record"):
        load(triples, write(tmp_path, []))
    with pytest.raises(ConfigError, match=r"no record; make a .*as docs/data\.md describes it$"):
        load("plain", write(tmp_path, "", "edits.jsonl"))


@pytest.mark.parametrize("name", FILES)
def test_every_layout_says_where_to_get_its_file(name: str, tmp_path: Path) -> None:
    source = DATA.get(name)
    assert isinstance(source, FileData)
    missing = tmp_path / "nothing.json"
    with pytest.raises(ConfigError) as caught:
        load(name, missing, **OPTIONS.get(name, {}))
    assert f"no data at {missing}: {source.advice} and put it there" in str(caught.value)
    with pytest.raises(ConfigError, match=rf"data={name} needs a file: set data\.path="):
        load(name, **OPTIONS.get(name, {}))


@pytest.mark.parametrize(
    ("name", "option"),
    [("easyedit", "target"), ("zsre", "references"), ("pocket", "path"), ("default", "path")],
)
def test_an_option_that_a_data_set_does_not_have_is_refused(name: str, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"data={name} does not read data\.{option}: remove it"):
        load(name, **{option: "alt"})  # type: ignore[arg-type]


def test_unknown_data() -> None:
    with pytest.raises(ConfigError, match="unknown data 'easyedti'; did you mean 'easyedit'"):
        load("easyedti")


def test_data_sets_are_known_without_torch() -> None:
    """A typing error on the command line must not cost seconds of imports."""
    script = "import sys; from alphaedit_plugin.data.base import DATA; list(DATA); "
    script += "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
