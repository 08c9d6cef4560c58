"""Metrics of an edit, in the layout of EasyEdit's ``compute_edit_quality``."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.metrics.easyedit import (
    add_locality,
    check_quality,
    edit_quality,
    requested_rewrite,
)
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import score

FULL = Request.parse(
    "The mother tongue of {} is",
    "Ada Marsh",
    "Spanish",
    ground_truth="French",
    rephrase=("Ada Marsh speaks", "It is known that Ada Marsh speaks"),
    locality={
        "neighbourhood": Probe(("Boris Lund plays the", "Norland is a"), ("violin", "country")),
        "other": Probe(("The cats and the",), ("cats know",)),
    },
    portability={"hop": Probe(("People in Norland speak",), ("French, German",))},
)
BARE = Request.parse("The capital of {} is", "Norland", "Rome")


def test_layout(gpt2: EditableModel) -> None:
    full, bare = edit_quality(gpt2, [FULL, BARE])
    assert set(full) == {"rewrite_acc", "rephrase_acc", "locality", "portability", "metric_meta"}
    assert set(bare) == {"rewrite_acc", "locality", "portability", "metric_meta"}
    assert (len(full["rewrite_acc"]), len(full["rephrase_acc"])) == (1, 2)
    assert set(full["locality"]) == {"neighbourhood_output", "other_output"}
    assert len(full["locality"]["neighbourhood_output"]) == 2
    assert all(isinstance(t, int) for t in full["locality"]["other_output"][0])
    assert set(full["portability"]) == {"hop_acc"}
    assert bare["locality"] == bare["portability"] == {}
    assert set(full["metric_meta"]) == {"rewrite", "rephrase"}
    assert full["metric_meta"]["rewrite"]["result_key"] == "rewrite_acc"
    json.dumps([full, bare])


def test_values_are_those_of_each_pair_alone(gpt2: EditableModel) -> None:
    full = edit_quality(gpt2, [BARE, FULL])[1]
    (rewrite,) = score(gpt2, [(FULL.filled, "Spanish")])
    assert full["rewrite_acc"] == [rewrite.accuracy]
    (hop,) = score(gpt2, [("People in Norland speak", "French, German")])
    assert full["portability"]["hop_acc"] == [hop.accuracy]
    (other,) = score(gpt2, [("The cats and the", "cats know")])
    assert full["locality"]["other_output"] == [list(other.predicted)]


def test_locality_counts_tokens_that_stayed() -> None:
    before = {"locality": {"a_output": [[1, 2], [3]]}, "metric_meta": {}}
    after = {"locality": {"a_output": [[1, 9], [3]]}, "metric_meta": {}}
    add_locality(before, after)
    assert after["locality"]["a_acc"] == [0.5, 1.0]
    assert after["metric_meta"]["locality.a"]["result_key"] == "locality.a_acc"
    assert "a_acc" not in before["locality"]


def test_locality_of_other_lengths_is_an_error() -> None:
    before = {"locality": {"a_output": [[1, 2]]}, "metric_meta": {}}
    after = {"locality": {"a_output": [[1, 2], [3]]}, "metric_meta": {}}
    with pytest.raises(ValueError, match="zip"):
        add_locality(before, after)


def test_requested_rewrite_is_the_hosts_request() -> None:
    assert requested_rewrite(BARE) == {
        "prompt": "The capital of Norland is",
        "target_new": "Rome",
        "ground_truth": None,
        "portability": {},
        "locality": {},
        "subject": "Norland",
    }
    full = requested_rewrite(FULL)
    assert full["rephrase_prompt"] == list(FULL.rephrase)
    assert full["locality"]["other"] == {"prompt": "The cats and the", "ground_truth": "cats know"}
    assert full["locality"]["neighbourhood"]["ground_truth"] == ["violin", "country"]
    json.dumps(full)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rephrase": ("The cats " * 60,)}, "request 1: .*context is 64"),
        ({"locality": {"far": Probe(("A prompt",), ("violin " * 60,))}}, "request 1: .*context is"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    gpt2: EditableModel, change: dict[str, Any], message: str
) -> None:
    """As `edit_quality` itself would, but by number and without running the model."""
    bad = replace(BARE, **change)
    check_quality(gpt2, [FULL, BARE])
    with pytest.raises(RequestError, match=message):
        check_quality(gpt2, [FULL, bad])
    with pytest.raises(RequestError):
        edit_quality(gpt2, [FULL, bad])
