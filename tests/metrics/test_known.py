"""What the unedited model knows is told apart, edited, and must survive."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.data.base import EditData, Location
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.sets.pocket import load_pocket_data
from alphaedit_plugin.experiments.cell_setup import KNOWN, set_up
from alphaedit_plugin.metrics.evaluation import evaluate
from alphaedit_plugin.metrics.known import facts_beside, knows, only_known
from alphaedit_plugin.models.decoding import continue_greedily
from alphaedit_plugin.models.editable import EditableModel


@pytest.fixture(scope="module")
def lm() -> EditableModel:
    return load_model(load_config().model)


@pytest.fixture(scope="module")
def data() -> EditData:
    """Forty requests, of which every fourth claims another truth than the model's."""
    requests = load_pocket_data(0).requests[:40]
    wrong = [
        replace(r, ground_truth=r.target_new) if i % 4 == 3 else r for i, r in enumerate(requests)
    ]
    return EditData(tuple(wrong))


def right(lm: EditableModel, request: Request) -> bool:
    """By the text that the model writes."""
    (said,) = continue_greedily(lm, [request.filled], [1])
    return said == request.ground_truth


def test_a_fact_is_known_if_its_whole_answer_or_an_alias_is_given(
    lm: EditableModel, data: EditData
) -> None:
    facts = [(r.filled, r.ground_truth or "", ()) for r in data.requests]
    assert knows(lm, facts) == [right(lm, r) for r in data.requests]
    prompt, answer, _ = next(f for f, known in zip(facts, knows(lm, facts), strict=True) if known)
    assert knows(lm, [(prompt, "nonsense", (answer,)), (prompt, "nonsense", ())]) == [True, False]
    assert knows(lm, [(prompt * 1000, answer, ())]) == [False]  # beyond the context
    asked = {"facts": Probe.of([(prompt, "nonsense", (answer,)), (prompt, "nonsense", ())])}
    assert evaluate(lm, data.requests[:1], asked).retention == {"facts": 0.5}


def test_what_is_known_is_asked_once_per_model(
    lm: EditableModel, data: EditData, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [(r.filled, r.ground_truth or "", ()) for r in data.requests]
    before = knows(lm, facts)

    def fail(*_: object) -> list[bool]:
        raise AssertionError("asked again")

    monkeypatch.setattr("alphaedit_plugin.metrics.known._knows", fail)
    assert knows(lm, facts) == before
    with pytest.raises(AssertionError, match="asked again"):
        knows(lm, facts[1:])


def test_records_with_a_fact_that_is_not_known_are_left_out(
    lm: EditableModel, data: EditData
) -> None:
    known = [request for request in data.requests if right(lm, request)]
    assert 0 < len(known) < 40
    assert only_known(lm, data).requests == tuple(known)
    pairs = replace(data, locations=tuple(Location(number // 2) for number in range(40)))
    halves = list(only_known(lm, pairs).requests)
    both = [pair for pair in zip(data.requests[::2], data.requests[1::2], strict=True)
            if right(lm, pair[0]) and right(lm, pair[1])]  # fmt: skip
    assert halves == [request for pair in both for request in pair]
    asked = Probe.of([(r.filled, r.ground_truth or "", ()) for r in data.requests])
    (kept,) = only_known(lm, replace(data, retention={"people": asked})).retention.values()
    assert kept.prompts == tuple(request.filled for request in known)
    nothing = EditData(tuple(r for r in data.requests if not right(lm, r)))
    with pytest.raises(ConfigError, match="answers none of"):
        only_known(lm, nothing)


def test_facts_beside_the_edits(lm: EditableModel, data: EditData) -> None:
    edited = data.requests[:5]
    probe = facts_beside(lm, data, edited, 10, seed=0)
    assert probe is not None
    assert len(probe.prompts) == 10
    by_prompt = {request.filled: request for request in data.requests}
    for prompt, answer in zip(probe.prompts, probe.answers, strict=True):
        request = by_prompt[prompt]
        assert request.subject not in {one.subject for one in edited}
        assert right(lm, request)
        assert answer == request.ground_truth
    assert facts_beside(lm, data, edited, 10, seed=0) == probe
    assert facts_beside(lm, data, edited, 10, seed=1) != probe
    assert facts_beside(lm, data, data.requests, 10, seed=0) is None


def test_a_cell_asks_for_them(tmp_path: Path) -> None:
    records = [
        {"prompt": r.filled, "subject": r.subject, "target_new": r.target_new,
         "ground_truth": r.ground_truth}
        for r in load_pocket_data(0).requests[:60]
    ]  # fmt: skip
    (tmp_path / "edits.json").write_text(json.dumps(records))
    words = ["data=easyedit", f"data.path={tmp_path / 'edits.json'}", "compare.edits=8"]
    quick = ["model.moments.tokens=2000", "compare.retention=12"]
    cell = set_up(load_config([*words, *quick, "data.known=true"], ComparisonConfig))
    assert len(cell.data.requests) == 8
    assert all(right(cell.lm, request) for request in cell.data.requests)
    assert len(cell.data.retention[KNOWN].prompts) == 12
    assert "the unedited model knows" in cell.data.conventions
