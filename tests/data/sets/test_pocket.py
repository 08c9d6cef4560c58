"""The pocket world as edit data."""

from __future__ import annotations

from collections import Counter

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.base import NEIGHBOURHOOD
from alphaedit_plugin.data.pocket_world import load_world
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.data.sets.pocket import load_pocket_data


def test_requests_are_counterfactual_and_each_has_its_own_subject() -> None:
    data = load_pocket_data(seed=0)
    assert len(data.requests) >= 200
    assert max(Counter(request.subject for request in data.requests).values()) == 1
    for request in data.requests:
        assert request.target_new != request.ground_truth
        assert request.prompt.count("{}") == 1
        assert len(request.rephrase) == 2
        assert all(request.subject in prompt for prompt in request.rephrase)


def test_neighbours_share_the_true_answer_and_no_edited_subject() -> None:
    data = load_pocket_data(seed=0)
    edited = {request.subject for request in data.requests}
    for request in data.requests:
        probe = request.locality[NEIGHBOURHOOD]
        assert probe.prompts
        assert set(probe.answers) == {request.ground_truth}
        assert not any(subject in prompt for prompt in probe.prompts for subject in edited)


def test_retained_facts_are_of_people_who_are_not_edited() -> None:
    data = load_pocket_data(seed=0, retained=50)
    groups = {person.name: person.group for person in load_world().people}
    assert set(data.retention) == {"seen", "unseen"}
    for kind, probe in data.retention.items():
        assert len(probe.prompts) == len(set(probe.prompts)) == 50
        for prompt in probe.prompts:
            (person,) = (name for name in groups if name in prompt)
            assert groups[person] == kind


def test_more_retained_facts_than_there_are() -> None:
    probe = load_pocket_data(seed=0, retained=10**6).retention["seen"]
    assert len(probe.prompts) == len(load_world().facts_of("seen"))


def test_the_seed_orders_requests() -> None:
    first, again, other = (load_pocket_data(seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.requests != other.requests
    assert {r.filled for r in first.requests} == {r.filled for r in other.requests}


def test_the_default_data_are_those_of_the_pocket_model() -> None:
    assert load_data(load_config()) == load_data(load_config(["data=pocket"]))
    with pytest.raises(ConfigError, match=r"no requests for .*gpt2-xl: give request\.prompt"):
        load_data(load_config(["model=gpt2-xl"]))
    assert load_data(load_config(["model=gpt2-xl", "data=pocket"])).requests


@pytest.mark.parametrize("name", ["default", "pocket"])
def test_a_path_is_refused_not_ignored(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data={name} has no file: leave data.path away"):
        load_data(load_config([f"data={name}", "data.path=edits.json"]))


def test_by_name_with_limit_and_retention() -> None:
    data = load_data(load_config(["data.limit=7", "compare.retention=9"]))
    assert len(data.requests) == 7
    assert {len(probe.prompts) for probe in data.retention.values()} == {9}
