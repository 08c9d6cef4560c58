"""Requests from the arguments of EasyEdit's ``edit``."""

from __future__ import annotations

from typing import Any

import pytest

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.arguments import prepare_requests
from alphaedit_plugin.data.request import Probe, Request


def test_one_request_from_plain_strings() -> None:
    (request,) = prepare_requests("Ada speaks", "French", "Ada", "German", "Ada's tongue is")
    assert request == Request("{} speaks", "Ada", "French", "German", ("Ada's tongue is",))
    (request,) = prepare_requests("Ada is", "x", "Ada", rephrase_prompts=[["Ada was", "So is Ada"]])
    assert request.rephrase == ("Ada was", "So is Ada")


def test_requests_from_the_hosts_columns() -> None:
    first, second = prepare_requests(
        ["Ada speaks", "{} plays"],
        ["French", "tennis"],
        ["Ada", "Boris"],
        rephrase_prompts=[None, "Boris likes"],
        locality_inputs={
            "near": {"prompt": ["Clara speaks", None], "ground_truth": ["German", None]},
            "many": {"prompt": [["a", "b"], ["c"]], "ground_truth": [["1", "2"], ["3"]]},
        },
        portability_inputs={"hop": {"prompt": ["x", "y"], "ground_truth": ["p", "q"]}},
    )
    assert (first.rephrase, second.rephrase) == ((), ("Boris likes",))
    assert first.locality == {
        "near": Probe(("Clara speaks",), ("German",)),
        "many": Probe(("a", "b"), ("1", "2")),
    }
    assert second.locality == {"many": Probe(("c",), ("3",))}
    assert second.portability == {"hop": Probe(("y",), ("q",))}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"prompt": ["a"]}, "must be {'prompt': …, 'ground_truth': …}"),
        ("text", "must be"),
        ({"prompt": ["a", "b"], "ground_truth": ["x"]}, "has 2 entries for 1 prompts"),
        ({"prompt": [["a", "b"]], "ground_truth": [["x"]]}, "2 prompts but 1 answers"),
        ({"prompt": ["a"], "ground_truth": [""]}, "non-empty"),
        ({"prompt": ["a"], "ground_truth": [None]}, "non-empty"),
        ({"prompt": [3], "ground_truth": ["x"]}, "non-empty"),
        ({"prompt": [" "], "ground_truth": ["x"]}, "request 0: .*prompt is ' '"),
        ({"prompt": "a", "ground_truth": None}, "near.*'ground_truth'.* is None"),
        ({"prompt": ["a"], "ground_truth": ["\udc00"]}, "surrogate"),
    ],
)
def test_a_probe_that_does_not_fit_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        prepare_requests("Ada is", "x", "Ada", locality_inputs={"near": entry})
    assert "near" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": None}, "prompts is None: give a text, or a list"),
        ({"target_new": None}, "target_new is None"),
        ({"target_new": {"a": 1, "b": 2}}, "target_new is {"),
        ({"subject": 5}, "subject is 5"),
        ({"target_neg": ["x"]}, "2 prompts but 1 target_neg"),
        ({"ground_truth": ["x", "y", "z"]}, "2 prompts but 3 ground_truth"),
        ({"subject": ["Ada", "Ada"]}, "request 1: subject 'Ada' is not in"),
        ({"subject": None}, "request 0: subject is None"),
        ({"rephrase_prompts": [None, 5]}, "request 1: rephrase is 5"),
        ({"rephrase_prompts": [["fine", ""], None]}, "request 0: rephrase is ''"),
        ({"locality_inputs": ["near"]}, r"locality_inputs is \['near'\]: it must be {name"),
        ({"portability_inputs": "hop"}, "portability_inputs is 'hop'"),
        ({"target_new": ["x", "\ud800"]}, "request 1: target_new .*surrogate"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    columns = {"prompts": ["Ada is", "Boris is"], "target_new": ["x", "y"]}
    columns["subject"] = ["Ada", "Boris"]
    with pytest.raises(RequestError, match=message):
        prepare_requests(**columns | change)
