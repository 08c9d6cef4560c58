"""EasyEdit's JSON layout: what is read, and what is refused with the record's number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.config import load_config
from alphaedit_plugin.data import DATA, NEIGHBOURHOOD, EditData, load_data
from alphaedit_plugin.data.easyedit import load_easyedit
from alphaedit_plugin.errors import ConfigError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "counterfact-edit-2k.json"
RECORD = {
    "case_id": 0,
    "prompt": "The mother tongue of Ada Marsh is",
    "target_new": "Spanish",
    "subject": "Ada Marsh",
    "ground_truth": "French",
    "rephrase_prompt": "Ada Marsh speaks",
    "locality_prompt": "Boris Lund speaks",
    "locality_ground_truth": "French",
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "edits.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in RECORD.items() if key not in keys}


def test_a_full_record(tmp_path: Path) -> None:
    (request,) = load_easyedit(write(tmp_path, [RECORD])).requests
    assert request.prompt == "The mother tongue of {} is"
    assert (request.subject, request.target_new) == ("Ada Marsh", "Spanish")
    assert request.ground_truth == "French"
    assert request.rephrase == ("Ada Marsh speaks",)
    assert request.locality[NEIGHBOURHOOD].prompts == ("Boris Lund speaks",)
    assert request.locality[NEIGHBOURHOOD].answers == ("French",)


def test_optional_parts(tmp_path: Path) -> None:
    bare = without("ground_truth", "rephrase_prompt", "locality_prompt", "locality_ground_truth")
    several = RECORD | {
        "rephrase_prompt": ["a", "b"],
        "locality_prompt": ["c", "d"],
        "locality_ground_truth": ["e", "f"],
    }
    first, second = load_easyedit(write(tmp_path, [bare, several])).requests
    assert (first.ground_truth, first.rephrase, dict(first.locality)) == (None, (), {})
    assert second.rephrase == ("a", "b")
    assert second.locality[NEIGHBOURHOOD].answers == ("e", "f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "is not JSON"),
        ({"prompt": "x"}, "is not a list of records"),
        ([RECORD, without("prompt")], "record 1: no 'prompt'"),
        ([without("subject")], "record 0: no 'subject'"),
        ([without("target_new")], "record 0: no 'target_new'"),
        ([RECORD, "text"], "record 1: .*not a record"),
        ([RECORD, None], "record 1: .*not a record"),
        ([RECORD | {"target_new": ""}], "record 0: target_new is ''"),
        ([RECORD | {"target_new": 5}], "record 0: target_new is 5"),
        ([RECORD | {"subject": "Nobody"}], "record 0: subject 'Nobody' is not in prompt"),
        ([RECORD | {"rephrase_prompt": 5}], "record 0: rephrase_prompt"),
        ([RECORD | {"rephrase_prompt": ["x", None]}], "record 0: rephrase_prompt"),
        ([RECORD | {"locality_prompt": ["a", "b"]}], "2 prompts but 1 answers"),
        ([RECORD | {"ground_truth": 5}], "record 0: ground_truth is 5"),
        ([RECORD | {"ground_truth": ["French"]}], "record 0: ground_truth is "),
        ("[" * 100_000, "nested too deeply"),
        ([without("locality_ground_truth")], "record 0: no 'locality_ground_truth'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_easyedit(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_bytes(b"\xff\xfe\x00[")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_easyedit(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no data at .*data\.path"):
        load_easyedit(tmp_path / "nothing.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_easyedit(tmp_path)


def test_by_name_with_limit(tmp_path: Path) -> None:
    path = write(tmp_path, [RECORD] * 5)
    assert len(load_data(load_config(["data=easyedit", f"data.path={path}"])).requests) == 5
    limited = load_config(["data=easyedit", f"data.path={path}", "data.limit=2"])
    assert len(load_data(limited).requests) == 2


def test_needs_a_path() -> None:
    with pytest.raises(ConfigError, match=r"data=easyedit needs a file: set data\.path"):
        load_data(load_config(["data=easyedit"]))


def test_unknown_data() -> None:
    with pytest.raises(ConfigError, match="unknown data 'easyedti'; did you mean 'easyedit'"):
        load_data(load_config(["data.name=easyedti"]))


def test_data_of_ones_own() -> None:
    DATA.register("mine", lambda config: EditData(()))
    try:
        assert load_data(load_config(["data.name=mine"])).requests == ()
    finally:
        DATA.unregister("mine")


@pytest.mark.skipif(not REAL.is_file(), reason=f"no CounterFact sample at {REAL}")
def test_real_counterfact() -> None:
    data = load_easyedit(REAL)
    records = json.loads(REAL.read_text(encoding="utf-8"))
    assert len(data.requests) == len(records)
    for request, record in zip(data.requests, records, strict=True):
        assert request.filled == record["prompt"]
        assert request.prompt.count("{}") == 1
        assert request.locality[NEIGHBOURHOOD].prompts == (record["locality_prompt"],)
