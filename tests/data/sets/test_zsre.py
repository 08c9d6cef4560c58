"""zsRE in MEND's layout, in both of its conventions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.data.sets.zsre import Target
from tests.data.files import load, without, write

RECORD: dict[str, Any] = {
    "subject": "Marsh & Sons",
    "src": "What does Marsh & Sons make?",
    "pred": "shoes",
    "rephrase": "Which product comes from Marsh & Sons?",
    "alt": "sailing boats",
    "answers": ["coats", "raincoats"],
    "loc": "nq question: who sang at the harbour fair",
    "loc_ans": "Boris Lund",
    "cond": "shoes >> sailing boats || What does Marsh & Sons make?",
}


@pytest.mark.parametrize(
    ("target", "new", "old", "accept", "said"),
    [
        (Target.alt, "sailing boats", "coats", (), "target alt, old answer answers[0]"),
        (Target.answers, "coats", None, ("raincoats",), "target answers[0], old answer unknown"),
    ],
)
def test_a_full_record(
    tmp_path: Path, target: Target, new: str, old: str, accept: tuple[str, ...], said: str
) -> None:
    data = load("zsre", write(tmp_path, [RECORD]), target=target)
    (request,) = data.requests
    assert request.prompt == "What does {} make?"
    assert (request.target_new, request.ground_truth, request.accept) == (new, old, accept)
    assert request.rephrase == ("Which product comes from Marsh & Sons?",)
    neighbour = Probe(("nq question: who sang at the harbour fair?",), ("Boris Lund",))
    assert request.locality == {NEIGHBOURHOOD: neighbour}
    assert request.case_id == "0"
    assert data.conventions == said


def test_the_convention_must_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, [RECORD])
    with pytest.raises(ConfigError, match=r"data\.target is .*=alt .*data\.target=answers"):
        load("zsre", path)
    with pytest.raises(ConfigError, match=r"data\.target is 'answer': it must be 'alt' or"):
        load("zsre", path, target="answer")
    chosen = ["data=zsre", f"data.path={path}", "data.target=answers"]
    assert load_data(load_config(chosen)).requests[0].target_new == "coats"


@pytest.mark.parametrize(
    ("change", "target", "reason"),
    [
        ({"alt": ""}, Target.alt, "alt is ''"),
        ({"answers": []}, Target.alt, "no 'answers' in it"),
        ({"answers": [""]}, Target.answers, "no 'answers' in it"),
        ({"loc_ans": " "}, Target.alt, "loc_ans is ' '"),
        ({"src": "Who makes coats?"}, Target.alt, "is not in prompt 'Who makes coats?'"),
    ],
)
def test_bad_records(tmp_path: Path, change: dict[str, Any], target: Target, reason: str) -> None:
    good = RECORD | {"subject": "Ada", "src": "What does Ada make?"}
    data = load("zsre", write(tmp_path, [RECORD | change, good]), target=target)
    assert [request.subject for request in data.requests] == ["Ada"]
    assert reason in data.dropped[0].reason


def test_a_wrong_answer_is_not_needed_where_it_is_not_edited_in(tmp_path: Path) -> None:
    path = write(tmp_path, [without(RECORD, "alt", "loc", "loc_ans")])
    (request,) = load("zsre", path, target=Target.answers).requests
    assert (request.target_new, dict(request.locality)) == ("coats", {})


def test_the_one_hop_question_of_easyedits_edition(tmp_path: Path) -> None:
    hop = {"New Question": "What is sewn at Marsh & Sons?", "New Answer": "sails"}
    path = write(tmp_path, [RECORD | {"portability": hop}])
    (request,) = load("zsre", path, target=Target.alt).requests
    assert request.portability == {"one_hop": Probe((hop["New Question"],), ("sails",))}
