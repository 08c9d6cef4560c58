"""EasyEdit's JSON layout: what is read, and what is dropped with its number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe
from alphaedit_plugin.data.selection import load_data
from tests.data.files import load, without, write

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
OTHER = RECORD | {"prompt": "{} lives in", "subject": "Clara Holm", "target_new": "Oslo"}


def test_a_full_record(tmp_path: Path) -> None:
    data = load("easyedit", write(tmp_path, [RECORD]))
    (request,) = data.requests
    assert request.prompt == "The mother tongue of {} is"
    assert (request.subject, request.target_new) == ("Ada Marsh", "Spanish")
    assert (request.ground_truth, request.case_id) == ("French", "0")
    assert request.rephrase == ("Ada Marsh speaks",)
    assert request.locality == {NEIGHBOURHOOD: Probe(("Boris Lund speaks",), ("French",))}
    assert data.name == "easyedit, edits.json"


def test_optional_parts(tmp_path: Path) -> None:
    bare = without(RECORD, "ground_truth", "rephrase_prompt", "locality_prompt", "case_id")
    several = OTHER | {
        "rephrase_prompt": ["a", "b"],
        "locality_prompt": ["c", "d"],
        "locality_ground_truth": ["e", "f"],
        "portability_prompt": "g",
        "portability_ground_truth": "h",
    }
    first, second = load("easyedit", write(tmp_path, [bare, several])).requests
    assert (first.ground_truth, first.rephrase, dict(first.locality)) == (None, (), {})
    assert second.rephrase == ("a", "b")
    assert second.locality[NEIGHBOURHOOD].answers == ("e", "f")
    assert second.portability == {"portability": Probe(("g",), ("h",))}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (without(RECORD, "prompt"), "no 'prompt' in it"),
        (without(RECORD, "subject"), "no 'subject' in it"),
        (without(RECORD, "target_new"), "no 'target_new' in it"),
        ("text", "record is 'text': needs an object"),
        (None, "record is None"),
        (RECORD | {"target_new": ""}, "target_new is ''"),
        (RECORD | {"target_new": 5}, "target_new is 5"),
        (RECORD | {"subject": "Nobody"}, "subject 'Nobody' is not in prompt"),
        (RECORD | {"subject": "\ud800"}, "half a character"),
        (RECORD | {"rephrase_prompt": 5}, "rephrase_prompt is 5"),
        (RECORD | {"locality_prompt": ["a", "b"]}, "locality_prompt: 2 prompts but 1 answers"),
        (RECORD | {"ground_truth": ["French"]}, "ground_truth is ['French']: needs text"),
        (without(RECORD, "locality_ground_truth"), "no 'locality_ground_truth' in it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_record_is_dropped_and_the_rest_is_kept(
    tmp_path: Path, bad: Any, reason: str
) -> None:
    data = load("easyedit", write(tmp_path, [RECORD, bad, OTHER]))
    assert [request.subject for request in data.requests] == ["Ada Marsh", "Clara Holm"]
    (dropped,) = data.dropped
    assert dropped.location.record == 1
    assert reason in dropped.reason


def test_by_name_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, [RECORD, OTHER])
    chosen = ["data=easyedit", f"data.path={path}"]
    assert len(load_data(load_config(chosen)).requests) == 2
    assert len(load_data(load_config([*chosen, "data.limit=1"])).requests) == 1
