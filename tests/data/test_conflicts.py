from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.conflicts import (
    conflicts,
    refuse_conflicts,
    standing,
    superseded,
)
from alphaedit_plugin.data.request import Request
from tests.tiny import REQUESTS

ASK = "The capital of {} is"


def ask(subject: str, target: str, prompt: str = ASK) -> Request:
    return Request(prompt, subject, target)


@pytest.mark.parametrize(
    "again",
    [
        ask("Zoë", "Rome"),
        ask("Zoe\u0308", "Rome"),  # the same character in two code points
        ask("Zoë", "Rome", "The  capital of {}\tis "),
        ask("Zoë\u200b", "Rome", "The capital of\u00a0{} is"),
        ask("Zoë", "Rome", "The capital of {subject} is"),
    ],
)
def test_one_question_with_two_answers_is_a_conflict(again: Request) -> None:
    first = ask("Zoë", "Paris")
    assert conflicts([first, *REQUESTS, again]) == {0: len(REQUESTS) + 1}


def test_a_relation_is_asked_for_in_whatever_words() -> None:
    capital = [
        replace(ask("A", "x"), relation="P36"),
        replace(ask("A", "y", "{}: seat"), relation="P36"),
    ]
    assert conflicts(capital) == {0: 1}
    assert conflicts([capital[0], replace(capital[1], relation="P37")]) == {}


@pytest.mark.parametrize(
    "other",
    [
        ask("Zoe", "Rome"),
        ask("zoë", "Rome"),
        ask("Zoë", "Rome", "The capital {} is"),
        ask("Zoë", " Paris"),
        ask("Zoë", "Paris\u200b"),
    ],
)
def test_other_questions_and_the_same_answer_are_none(other: Request) -> None:
    assert conflicts([ask("Zoë", "Paris"), other]) == {}


def test_the_last_wins_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    requests = [ask("A", "x"), ask("B", "y"), ask("A", "z"), ask("A", "x")]
    with caplog.at_level(logging.WARNING):
        left = standing(requests)
    assert [requests.index(request) for request in left] == [0, 1, 0]  # a repetition stays
    assert caplog.messages == [
        "requests 2 and 3 want different answers to 'The capital of A is', 'z' and 'x': "
        "the last one wins"
    ]


def test_a_refusal_names_both() -> None:
    refuse_conflicts(REQUESTS)
    with pytest.raises(RequestError, match=r"requests 0 and 1 want .* 'x' and 'y'.*on_conflict"):
        refuse_conflicts([ask("A", "x"), ask("A", "y")])


@pytest.mark.parametrize(
    ("answers", "arriving", "lost"),
    [
        (["x", "y"], [], [{0: -1}, {}]),
        (["x", "x"], [], [{}, {}]),
        (["x"], ["x"], [{}]),
        (["x"], ["y"], [{0: 0}]),
        (["x", "y"], ["x"], [{0: -1}, {0: 0}]),  # in between x was overwritten
        (["x", "y", "x"], ["y"], [{0: 0}, {0: -1}, {0: 0}]),
    ],
)
def test_what_was_edited_is_superseded_by_other_answers_alone(
    answers: list[str], arriving: list[str], lost: list[dict[int, int]]
) -> None:
    batches = [[ask("A", answer), ask("B", "same")] for answer in answers]
    new = [ask("A", answer) for answer in arriving]
    found = superseded(batches, new)
    assert [{n: max(k, -1) for n, k in places.items()} for places in found] == lost
