"""Real samples, which stay outside the repository: ``$DATA_DIR``, or ``../shared/data``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alphaedit_plugin.data.conflicts import conflicts
from alphaedit_plugin.data.request import NEIGHBOURHOOD
from alphaedit_plugin.data.sets.zsre import Target
from tests.data.files import DATA_DIR, load


def sample(name: str) -> Path:
    path = DATA_DIR / name
    if not path.is_file():
        pytest.skip(f"no {name} in {DATA_DIR}: set DATA_DIR to where it is")
    return path


def test_counterfact() -> None:
    path = sample("counterfact-edit-2k.json")
    data = load("easyedit", path)
    records = json.loads(path.read_text(encoding="utf-8"))
    assert len(data.requests) + len(data.dropped) == len(records) == 2000
    assert all("asks the same of" in one.reason for one in data.dropped)
    for request, location in zip(data.requests, data.locations, strict=True):
        record = records[location.record]
        assert request.filled == record["prompt"]
        assert request.prompt.count("{}") == 1
        assert request.locality[NEIGHBOURHOOD].prompts == (record["locality_prompt"],)


@pytest.mark.parametrize("target", Target)
def test_zsre(target: Target) -> None:
    path = sample("zsre-500.json")
    data = load("zsre", path, target=target)
    records = json.loads(path.read_text(encoding="utf-8"))
    assert len(data.requests) == len(records)
    for request, record in zip(data.requests, records, strict=True):
        assert request.filled == record["src"]
        wanted = record["alt"] if target is Target.alt else record["answers"][0]
        assert request.target_new == wanted


def test_known_facts() -> None:
    path = sample("known-800.json")
    data = load("known", path)
    records = json.loads(path.read_text(encoding="utf-8"))
    assert len(data.requests) + len(data.dropped) == len(records) == 800
    unfit = ("asks the same", "repeats", " times in prompt")
    assert all(any(why in one.reason for why in unfit) for one in data.dropped)
    answers = {(record["relation_id"], record["attribute"]) for record in records}
    for request, location in zip(data.requests, data.locations, strict=True):
        record = records[location.record]
        assert (request.filled, request.ground_truth) == (record["prompt"], record["attribute"])
        assert (request.relation, request.target_new) in answers
        assert request.target_new != request.ground_truth


@pytest.mark.parametrize(
    ("name", "file", "neighbours"),
    [("qaedit", "qaedit-600.json", 5), ("wikibigedit", "wikibigedit-1k.json", 1)],
)
def test_questions(name: str, file: str, neighbours: int) -> None:
    path = sample(file)
    data = load(name, path)
    records = json.loads(path.read_text(encoding="utf-8"))
    assert len(data.requests) + len(data.dropped) == len(records)
    unfit = ("asks the same", "repeats", " times in prompt")
    assert all(any(why in one.reason for why in unfit) for one in data.dropped)
    for request, location in zip(data.requests, data.locations, strict=True):
        assert request.filled == records[location.record]["prompt"]
        assert len(request.rephrase) == 1
        assert len(request.locality[NEIGHBOURHOOD].prompts) == neighbours


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("easyedit", "counterfact-edit-2k.json"),
        ("easyedit", "counterfact-paraphrased-2k.json"),
        ("easyedit", "wikibigedit-1k.json"),
        ("zsre", "zsre-2k.json"),
        ("knowedit", "knowedit-wiki-counterfact-500.json"),
        ("mquake", "mquake-hard-250.json"),
        ("known", "known-800.json"),
        ("qaedit", "qaedit-600.json"),
        ("wikibigedit", "wikibigedit-1k.json"),
    ],
)
def test_what_is_asked_once_contradicts_nothing(name: str, file: str) -> None:
    data = load(name, sample(file), target=Target.answers if name == "zsre" else None)
    assert conflicts(data.requests) == {}
    asked = [question for request in data.requests for question in request.questions]
    assert len(set(asked)) == len(asked)
