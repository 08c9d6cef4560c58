"""What all layouts of files have in common: reports, refusals, and adding one of one's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import DataConfig, EditorConfig
from alphaedit_plugin.data.base import DATA, EditData
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.data.source import FileData, Reading
from tests.data.files import load, write
from tests.data.sets import (
    test_counterfact,
    test_easyedit,
    test_knowedit,
    test_leme,
    test_mquake,
    test_zsre,
)

FILES = [name for name in DATA if isinstance(DATA.get(name), FileData)]
TARGET = {"zsre": "alt", "leme": "alt"}


def read_triple(record: Fields) -> Sequence[Request]:
    """A layout of the test's own."""
    return [Request.parse(record.text("q"), record.text("s"), record.text("a"))]


@pytest.fixture
def triples() -> Iterator[str]:
    source = FileData(
        "triples", "triples.json", "https://x.org", lambda data: Reading(read_triple, "as is")
    )
    DATA.register("triples", source)
    yield "triples"
    DATA.unregister("triples")


def triple(subject: str, **change: Any) -> dict[str, Any]:
    return {"q": f"{subject} speaks", "s": subject, "a": "French"} | change


def test_a_layout_of_ones_own_is_a_function_and_a_name(tmp_path: Path, triples: str) -> None:
    path = write(tmp_path, [triple("Ada"), triple("Boris", a=5)])
    chosen = load_config([f"data.name={triples}", f"data.path={path}"])
    data = load_data(chosen)
    assert data.requests == (Request("{} speaks", "Ada", "French"),)
    assert (data.name, data.conventions) == ("triples, edits.json", "as is")
    assert [str(one) for one in data.dropped] == ["record 1 (line 3)"]


def test_a_source_may_be_any_function_of_the_configuration() -> None:
    DATA.register("mine", lambda config: EditData((Request("{} is", "Ada", str(config.seed)),)))
    try:
        assert load_data(load_config(["data.name=mine", "seed=7"])).requests[0].target_new == "7"
    finally:
        DATA.unregister("mine")


def test_the_last_of_many_records_is_reached(
    tmp_path: Path, triples: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bad records at the end of a long file cost themselves, and are said once, grouped."""
    records: list[Any] = [triple(f"N{i}") for i in range(20_000)]
    for number in (3, 4, 5, 6, 7, 8, 19_998):
        records[number] = {"q": "?"}
    records[19_999] = triple("N19999", a="")
    path = write(tmp_path, records)
    with caplog.at_level(logging.WARNING):
        data = load(triples, path)
    assert len(data.requests) == 19_992
    assert data.places[-1].record == 19_997
    assert (data.dropped[-2].record, data.dropped[-2].line) == (19_998, 20_000)
    (message,) = caplog.messages
    assert "triples, edits.json: 8 records dropped: 7 × no 's' in it [record 3 (line 5)" in message
    assert "and 2 more]; 1 × a is '': needs text [record 19999 (line 20001)]" in message
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
        f"{path} has nothing to use as data=triples: 2 × no 'q' in it [record 0 (line 2), "
        "record 1 (line 3)]; get triples.json from https://x.org"
    )
    with pytest.raises(ConfigError, match="nothing to use as data=triples: it holds no record"):
        load(triples, write(tmp_path, []))


@pytest.mark.parametrize(
    ("chosen", "record", "fitting"),
    [
        ("counterfact", test_easyedit.RECORD, "data=easyedit"),
        ("easyedit", test_counterfact.RECORD, "data=counterfact"),
        ("counterfact", test_zsre.RECORD, "data=zsre"),
        ("easyedit", test_mquake.RECORD, "data=mquake"),
        ("easyedit", test_leme.COUNTERFACT, "data=counterfact or data=leme"),
        ("counterfact", test_knowedit.RECENT, "data=knowedit"),
    ],
)
def test_a_file_of_another_layout_is_recognised(
    tmp_path: Path, chosen: str, record: dict[str, Any], fitting: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(chosen, write(tmp_path, [record]))
    assert str(caught.value).endswith(f"; it looks like {fitting}")


@pytest.mark.parametrize("name", FILES)
def test_every_layout_says_where_its_file_is_to_be_had(name: str, tmp_path: Path) -> None:
    source = DATA.get(name)
    assert isinstance(source, FileData)
    assert source.name == name
    missing = tmp_path / "nothing.json"
    with pytest.raises(ConfigError) as caught:
        load(name, missing, target=TARGET.get(name))
    assert f"no data at {missing}: {source.advice} and put it there" in str(caught.value)
    with pytest.raises(ConfigError, match=rf"data={name} needs a file: set data\.path="):
        load_data(EditorConfig(data=DataConfig(name=name, target=TARGET.get(name))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("easyedit", "target"),
        ("zsre", "references"),
        ("pocket", "references"),
        ("mquake", "target"),
    ],
)
def test_a_setting_that_is_not_read_is_refused(name: str, setting: str) -> None:
    config = EditorConfig(data=DataConfig(name=name, **{setting: "alt"}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"data={name} does not read data\.{setting}: leave"):
        load_data(config)


def test_unknown_data() -> None:
    with pytest.raises(ConfigError, match="unknown data 'easyedti'; did you mean 'easyedit'"):
        load_data(load_config(["data.name=easyedti"]))


def test_an_empty_file_of_ones_own_is_told_how_to_be_made(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.touch()
    with pytest.raises(
        ConfigError, match=r"holds no record; make a .*as docs/data\.md describes it$"
    ):
        load_data(load_config(["data=plain", f"data.path={path}"]))
