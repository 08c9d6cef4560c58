"""QAEdit: questions with unrelated ones as locality."""

from __future__ import annotations

from pathlib import Path

from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe
from tests.data.files import load, without, write

RECORD = {
    "id": 7,
    "source": "NQ",
    "prompt": "who wrote the norland anthem",
    "target": "Ada Marsh",
    "subject": "norland anthem",
    "rephrase": "Who is the author of Norland's anthem?",
    "locality": [
        {"loc": "where is velm", "loc_ans": "Sutland"},
        {"loc": "who is cy", "loc_ans": ""},
        {"loc": "when was the flood", "loc_ans": "1931"},
    ],
}


def test_a_full_record(tmp_path: Path) -> None:
    data = load("qaedit", write(tmp_path, [RECORD]))
    (request,) = data.requests
    assert (request.prompt, request.subject) == ("who wrote the {}", "norland anthem")
    assert (request.target_new, request.ground_truth) == ("Ada Marsh", None)
    assert request.rephrase == ("Who is the author of Norland's anthem?",)
    asked = Probe(("where is velm", "when was the flood"), ("Sutland", "1931"))
    assert request.locality == {NEIGHBOURHOOD: asked}
    assert request.case_id == "7"
    assert [one.reason for one in data.trimmed] == ["locality[1].loc_ans is blank"]


def test_optional_and_bad_parts(tmp_path: Path) -> None:
    bare = without(RECORD, "rephrase", "locality", "id")
    bad = RECORD | {"locality": "where is velm"}
    data = load("qaedit", write(tmp_path, [bare, bad]))
    (request,) = data.requests
    assert (request.rephrase, dict(request.locality), request.case_id) == ((), {}, "0")
    assert "locality is 'where is velm': needs a list" in data.dropped[0].reason
