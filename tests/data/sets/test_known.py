"""ROME's known facts: the true answer, and a counterfactual one of the same relation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.selection import read_data
from alphaedit_plugin.data.settings import DataConfig
from tests.data.files import load, without, write


def fact(number: int, subject: str, attribute: str, **more: Any) -> dict[str, Any]:
    template = "The mother tongue of {} is"
    return {
        "known_id": number,
        "subject": subject,
        "attribute": attribute,
        "template": template,
        "prediction": f" {attribute}, of course",
        "prompt": template.format(subject),
        "relation_id": "P103",
    } | more


FACTS = [fact(0, "Ada Marsh", "French"), fact(1, "Boris Lund", "Danish"), fact(2, "Cy", "Dutch")]


def test_a_counterfactual_answer_of_the_same_relation(tmp_path: Path) -> None:
    sport = fact(3, "Dee", "golf", relation_id="P641", template="{} plays", prompt="Dee plays")
    data = load("known", write(tmp_path, [*FACTS, sport]))
    ada = data.requests[0]
    assert (ada.prompt, ada.subject) == ("The mother tongue of {} is", "Ada Marsh")
    assert (ada.ground_truth, ada.case_id, ada.relation) == ("French", "0", "P103")
    assert ada.target_new in {"Danish", "Dutch"}
    (dropped,) = data.dropped
    assert (dropped.location.record, dropped.reason) == (
        3,
        "its relation 'P641' has no other answer",
    )


def test_a_prompt_that_goes_on_after_its_template(tmp_path: Path) -> None:
    longer = FACTS[0] | {"prompt": "The mother tongue of Ada Marsh is, as Ada Marsh says,"}
    request, *_ = load("known", write(tmp_path, [longer, FACTS[1]])).requests
    assert request.prompt == "The mother tongue of {} is, as Ada Marsh says,"


def test_the_seed_draws_and_other_true_answers_are_not_drawn(tmp_path: Path) -> None:
    both = [FACTS[0], fact(9, "Ada Marsh", "Danish"), *FACTS[1:]]
    chosen = DataConfig(name="known", options={"path": str(write(tmp_path, both))})
    drawn = [
        [r.target_new for r in read_data(SimpleNamespace(data=chosen, seed=seed)).requests]
        for seed in (0, 0, *range(1, 9))
    ]
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn))) > 1
    assert {(first, second) for first, second, *_ in drawn} == {("Dutch", "Dutch")}


def test_bad_records_are_dropped(tmp_path: Path) -> None:
    data = load("known", write(tmp_path, [without(FACTS[0], "attribute"), *FACTS[1:]]))
    assert [one.reason for one in data.dropped] == ["no 'attribute' in it"]
    with pytest.raises(ConfigError, match=r"nothing to edit: its relation 'P103' has no other"):
        load("known", write(tmp_path, FACTS[:1]))
