"""A user's own edits, in JSON lines, JSON and tables."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.data.sets.plain import KNOWN
from tests.data.files import load, write

RECORD: dict[str, Any] = {
    "case_id": "a",
    "prompt": "{} speaks",
    "subject": "Ada",
    "target_new": "Spanish",
    "ground_truth": "French",
    "rephrase": ["Ada's tongue is", "Ada talks"],
    "accept": "Castilian",
    "generation": ["Ada grew up"],
    "attribute": ["Dario speaks"],
    "references": ["Dario sings in Spanish."],
    "relation": "tongue",
    "locality": {
        NEIGHBOURHOOD: {"prompt": ["Boris speaks"], "ground_truth": ["French"]},
        "age": {"prompt": "Ada is aged", "ground_truth": "nine"},
    },
    "portability": {"hop": {"prompt": "Ada's book is in", "ground_truth": "Spanish"}},
}
EXPECTED = Request(
    "{} speaks",
    "Ada",
    "Spanish",
    "French",
    ("Ada's tongue is", "Ada talks"),
    locality={
        NEIGHBOURHOOD: Probe(("Boris speaks",), ("French",)),
        "age": Probe(("Ada is aged",), ("nine",)),
    },
    portability={"hop": Probe(("Ada's book is in",), ("Spanish",))},
    accept=("Castilian",),
    generation=("Ada grew up",),
    attribute=("Dario speaks",),
    references=("Dario sings in Spanish.",),
    case_id="a",
    relation="tongue",
)


def test_every_field_of_a_request_can_be_given() -> None:
    assert {field.name for field in fields(Request)} <= set(KNOWN)
    assert {field.name for field in fields(Request)} <= set(RECORD)


@pytest.mark.parametrize("name", ["edits.jsonl", "edits.json"])
def test_json(tmp_path: Path, name: str) -> None:
    content = json.dumps(RECORD) if name.endswith("l") else [RECORD]
    data = load("plain", write(tmp_path, content, name))
    assert data.requests == (EXPECTED,)
    assert data.name == f"plain, {name}"


def test_a_table(tmp_path: Path) -> None:
    rows = (
        "prompt,subject,target_new,rephrase,locality_prompt,locality_ground_truth\n"
        "Ada speaks,Ada,Spanish,Ada talks,Boris speaks,French\n"
        'Boris plays,Boris,chess,"[""Boris likes"", ""Boris, at home, plays""]",,\n'
    )
    first, second = load("plain", write(tmp_path, rows, "edits.csv")).requests
    assert (first.prompt, first.rephrase) == ("{} speaks", ("Ada talks",))
    assert first.locality == {NEIGHBOURHOOD: Probe(("Boris speaks",), ("French",))}
    assert second.rephrase == ("Boris likes", "Boris, at home, plays")
    assert dict(second.locality) == {}
    assert (first.case_id, second.case_id) == ("0", "1")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"rephrse": "x"}, "unknown field 'rephrse'; did you mean 'rephrase'"),
        ({"locality": {"near": "x"}}, "locality.near is 'x': needs an object"),
        ({"locality": {"near": {"prompt": "x"}}}, "no 'locality.near.ground_truth' in it"),
        ({"accept": [1]}, "accept is 1: needs text"),
    ],
)
def test_bad_records(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    data = load("plain", write(tmp_path, [RECORD | bad, RECORD | {"subject": "Boris"}]))
    assert [request.subject for request in data.requests] == ["Boris"]
    assert reason in data.dropped[0].reason
