"""The pocket world as edit data."""

from __future__ import annotations

from collections import Counter

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.data.request import NEIGHBOURHOOD
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.data.sets.pocket import load_pocket_data


def test_requests_are_counterfactual_and_judged_by_untouched_facts() -> None:
    requests = load_pocket_data(seed=0).requests
    assert len(requests) >= 200
    edited = {request.subject for request in requests}
    assert len(edited) == len(requests)
    for request in requests:
        assert request.target_new != request.ground_truth
        assert len(request.rephrase) == 2
        assert all(request.subject in prompt for prompt in request.rephrase)
        probe = request.locality[NEIGHBOURHOOD]
        assert probe.prompts
        assert set(probe.answers) == {request.ground_truth}
        assert not any(subject in prompt for prompt in probe.prompts for subject in edited)


def test_retained_facts() -> None:
    data = load_pocket_data(seed=0, retained=50)
    assert set(data.retention) == {"seen", "unseen"}
    for probe in data.retention.values():
        assert len(probe.prompts) == len(set(probe.prompts)) == 50
        assert not any(r.subject in prompt for r in data.requests for prompt in probe.prompts)
    everything = load_pocket_data(seed=0, retained=10**6).retention["seen"]
    assert len(everything.prompts) == 720
    assert max(Counter(everything.prompts).values()) == 1


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


def test_by_name_with_limit_and_retention() -> None:
    data = load_data(load_config(["data.limit=7", "compare.retention=9"], ComparisonConfig))
    assert len(data.requests) == 7
    assert {len(probe.prompts) for probe in data.retention.values()} == {9}
