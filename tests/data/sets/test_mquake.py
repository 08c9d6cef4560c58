"""MQuAKE: several edits per record, and questions about all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.data.request import Probe
from tests.data.files import load, without, write


def rewrite(subject: str, prompt: str, target: str, relation: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "relation_id": relation,
        "target_new": {"str": target, "id": "Q1"},
        "target_true": {"str": "football", "id": "Q2"},
        "subject": subject,
        "question": f"Is it {target} with {subject}?",
    }


SPORT = rewrite("Velm Rovers", "{} is associated with the sport of", "curling", "P641")
ORIGIN = rewrite("curling", "{} was created in the country of", "Norland", "P495")
RECORD: dict[str, Any] = {
    "case_id": 9,
    "requested_rewrite": [SPORT, ORIGIN],
    "questions": ["Where does the sport of Velm Rovers come from?", "Which country is it?"],
    "answer": "Sutland",
    "answer_alias": [],
    "new_answer": "Norland",
    "new_answer_alias": ["Kingdom of Norland"],
    "single_hops": [],
    "new_single_hops": [
        {
            "question": "Which sport is Velm Rovers associated with?",
            "cloze": "Velm Rovers is associated with the sport of",
            "answer": "curling",
            "answer_alias": ["the roaring game"],
        }
    ],
}
HOPS = Probe(tuple(RECORD["questions"]), ("Norland", "Norland"), (("Kingdom of Norland",),) * 2)


def test_a_full_record(tmp_path: Path) -> None:
    first, second = load("mquake", write(tmp_path, [RECORD])).requests
    assert first.filled == "Velm Rovers is associated with the sport of"
    assert (first.target_new, first.ground_truth) == ("curling", "football")
    assert first.rephrase == ("Is it curling with Velm Rovers?",)
    assert (first.accept, second.accept) == (("the roaring game",), ())
    assert (first.case_id, second.case_id, first.relation) == ("9", "9", "P641")
    # only after the second edit can the questions be answered
    assert dict(first.portability) == {}
    assert second.portability == {"multi_hop": HOPS}


def test_an_edit_of_several_records_is_made_once_and_asked_when_its_record_is_complete(
    tmp_path: Path,
) -> None:
    tax = rewrite("Norland", "The tax in {} is", "low", "P2")
    asked = {"questions": ["How is the tax?"], "new_answer": "low", "new_answer_alias": []}
    again = RECORD | asked | {"requested_rewrite": [tax, SPORT]}
    known = RECORD | asked | {"requested_rewrite": [SPORT], "questions": ["Which sport?"]}
    data = load("mquake", write(tmp_path, [RECORD, again, known]))
    assert [request.target_new for request in data.requests] == ["curling", "Norland", "low"]
    sport, origin, last = data.requests
    assert sport.portability["multi_hop"].prompts == ("Which sport?",)
    assert origin.portability == {"multi_hop": HOPS}
    assert last.portability["multi_hop"] == Probe(("How is the tax?",), ("low",))
    assert not data.dropped
    said = [(one.location.record, one.reason) for one in data.trimmed]
    once = "its edit of 'Velm Rovers' is made once, with record 0"
    assert said == [(1, once), (2, once)]


def test_a_record_that_contradicts_an_earlier_one_is_dropped(tmp_path: Path) -> None:
    other = RECORD | {"requested_rewrite": [ORIGIN, SPORT | {"target_new": {"str": "golf"}}]}
    data = load("mquake", write(tmp_path, [RECORD, other]))
    assert len(data.requests) == 2
    assert "asks the same of 'Velm Rovers' as record 0" in data.dropped[0].reason
    assert "'golf', not 'curling'" in data.dropped[0].reason


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (RECORD | {"requested_rewrite": []}, "no 'requested_rewrite' in it"),
        (RECORD | {"requested_rewrite": SPORT}, "needs a list of objects"),
        (without(RECORD, "questions"), "no 'questions' in it"),
        (without(RECORD, "new_answer"), "no 'new_answer' in it"),
        (
            RECORD | {"requested_rewrite": [SPORT, without(ORIGIN, "prompt")]},
            "no 'requested_rewrite[1].prompt' in it",
        ),
    ],
)
def test_one_bad_edit_drops_its_record(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    data = load("mquake", write(tmp_path, [bad, RECORD]))
    assert [request.case_id for request in data.requests] == ["9", "9"]
    assert reason in data.dropped[0].reason
