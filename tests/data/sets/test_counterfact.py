"""CounterFact as ROME and MEMIT publish it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe
from tests.data.files import load, without, write

REWRITE = {
    "prompt": "The mother tongue of {} is",
    "relation_id": "P103",
    "target_new": {"str": "Spanish", "id": "Q1321"},
    "target_true": {"str": "French", "id": "Q150"},
    "subject": "Ada Marsh",
}
RECORD: dict[str, Any] = {
    "case_id": 17,
    "pararel_idx": 2796,
    "requested_rewrite": REWRITE,
    "paraphrase_prompts": ["Ada Marsh, who speaks", "It rains. Ada Marsh spoke"],
    "neighborhood_prompts": ["Boris Lund speaks", "Clara Holm grew up with"],
    "attribute_prompts": ["Dario Vega's mother tongue is"],
    "generation_prompts": ["Ada Marsh's mother tongue is", "Ada Marsh lives in"],
}
SNIPPETS = [
    {
        "relation_id": "P103",
        "target_id": "Q1321",
        "samples": [
            {"name": "Dario Vega", "text": "Dario Vega is a singer from Seville."},
            {"name": "Elena Paz", "text": "Elena Paz writes in Spanish."},
        ],
    },
    {"relation_id": "P103", "target_id": "Q150", "samples": [{"text": "Jean speaks French."}]},
]


@pytest.mark.parametrize("name", ["counterfact", "multi-counterfact"])
def test_a_full_record(tmp_path: Path, name: str) -> None:
    (request,) = load(name, write(tmp_path, [RECORD])).requests
    assert request.filled == "The mother tongue of Ada Marsh is"
    assert (request.target_new, request.ground_truth) == ("Spanish", "French")
    assert request.rephrase == tuple(RECORD["paraphrase_prompts"])
    neighbours = tuple(RECORD["neighborhood_prompts"])
    assert request.locality == {NEIGHBOURHOOD: Probe(neighbours, ("French", "French"))}
    assert request.attribute == ("Dario Vega's mother tongue is",)
    assert request.generation == tuple(RECORD["generation_prompts"])
    assert (request.case_id, request.relation, request.references) == ("17", "P103", ())
    assert not request.portability


def test_reference_texts(tmp_path: Path) -> None:
    other = REWRITE | {"subject": "Boris Lund", "target_new": {"str": "Greek", "id": "Q9129"}}
    third = REWRITE | {"subject": "Clara Holm", "target_new": REWRITE["target_true"]}
    records = [RECORD | {"requested_rewrite": one} for one in (REWRITE, other, third)]
    snippets = str(write(tmp_path, SNIPPETS, "attribute_snippets.json"))
    data = load("counterfact", write(tmp_path, records), references=snippets, limit=2)
    texts = ("Dario Vega is a singer from Seville.", "Elena Paz writes in Spanish.")
    assert [request.references for request in data.requests] == [texts, ()]
    # the corpus of document frequencies does not depend on how many requests are made
    assert data.references == (*texts, "Jean speaks French.")
    assert data.conventions == "reference texts of attribute_snippets.json"
    (trimmed,) = data.trimmed
    assert (trimmed.location.record, "no reference text" in trimmed.reason) == (1, True)


def test_reference_texts_that_are_missing_or_something_else(tmp_path: Path) -> None:
    path = write(tmp_path, [RECORD])
    with pytest.raises(ConfigError, match=r"no reference texts at .*get https.*attribute_snippets"):
        load("counterfact", path, references=str(tmp_path / "nothing.json"))
    with pytest.raises(ConfigError, match=r"record 0: no 'relation_id' in it"):
        load("counterfact", path, references=str(path))


def test_the_one_hop_question_of_easyedits_edition(tmp_path: Path) -> None:
    hop = {"New Question": "In which family is Ada's tongue?", "New Answer": "Romance"}
    (request,) = load("counterfact", write(tmp_path, [RECORD | {"portability": hop}])).requests
    assert request.portability == {"one_hop": Probe((hop["New Question"],), ("Romance",))}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"requested_rewrite": "text"}, "requested_rewrite is 'text': needs an object"),
        (
            {"requested_rewrite": without(REWRITE, "target_new")},
            "no 'requested_rewrite.target_new' in it",
        ),
        (
            {"requested_rewrite": REWRITE | {"target_new": {"id": "Q1"}}},
            "no 'requested_rewrite.target_new.str' in it",
        ),
        (
            {"requested_rewrite": without(REWRITE, "target_true")},
            "no 'requested_rewrite.target_true.str' in it, which neighbours need",
        ),
        ({"neighborhood_prompts": [3]}, "neighborhood_prompts is 3: needs text"),
        ({"requested_rewrite": REWRITE | {"prompt": "{} and {}"}}, "2 slots"),
    ],
)
def test_bad_records(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good = RECORD | {"requested_rewrite": REWRITE | {"subject": "Boris Lund"}}
    data = load("counterfact", write(tmp_path, [RECORD | change, good]))
    assert [request.subject for request in data.requests] == ["Boris Lund"]
    assert reason in data.dropped[0].reason


def test_an_edit_alone_is_enough(tmp_path: Path) -> None:
    rewrite = without(REWRITE, "target_true", "relation_id")
    (request,) = load("counterfact", write(tmp_path, [{"requested_rewrite": rewrite}])).requests
    assert (request.ground_truth, request.relation, request.case_id) == (None, None, None)


def test_a_blank_prompt_is_left_away_and_said(tmp_path: Path) -> None:
    data = load("counterfact", write(tmp_path, [RECORD | {"paraphrase_prompts": ["", "Ada is"]}]))
    assert data.requests[0].rephrase == ("Ada is",)
    assert data.trimmed[0].reason == "paraphrase_prompts is blank"
    assert not data.dropped
