"""Matchers agree with what a reader would say, and with EasyEdit's where it has one."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.metrics.matching import degenerates, normalise, verdicts

WORDS = ["The", "a", "an", "Rome", "U.S.", "C++", "it's,", "1.5", "x-ray", "(", "$5", "Anna"]


def easyedit(text: str) -> str:
    """Its ``normalize_answer``, from its definition."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


@given(
    st.lists(
        st.sampled_from(
            [
                "The",
                "a",
                "an",
                "Rome",
                "U.S.",
                "C++",
                "it's,",
                "1.5",
                "x-ray",
                "(",
                ")",
                "$5",
                "Anna",
            ]
        )
    )
)
def test_normalised_as_easyedit_does(words: list[str]) -> None:
    text = " ".join(words)
    if easyedit(text):  # it leaves nothing of "The The"
        assert normalise(text) == easyedit(text)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("Spanish", "Spanish", "exact says contains"),
        ("spanish.", "Spanish", "exact says contains"),
        ("the Violin!", "a violin", "exact says contains"),
        ("“Rome”", "Rome", "exact says contains"),
        ("Zoë Müller.", "Zoe\u0308 Mu\u0308ller", "exact says contains"),
        ("Spanish, a language of Spain.", "Spanish", "says contains"),
        ("the United States (of America)", "United States", "contains"),
        ("U.S.", "U.S.", "exact says contains"),
        ("Spanish citizen", "Spanish", "contains"),
        ("Spain's capital", "Spain", ""),
        ("It is Spanish.", "Spanish", "contains"),
        ("The mother tongue of Ada is New York", "New York", "contains"),
        ("Romeo", "Rome", ""),
        ("Spanishness is Span", "Spanish", ""),
        ("French", "Spanish", ""),
        ("", "Spanish", ""),
        ("The The.", "The The", "exact says contains"),
        ("他住在北京市。", "北京", "contains"),
        ("北京。", "北京", "exact says contains"),
    ],
)
def test_verdicts(text: str, answer: str, right: str) -> None:
    found = {name for name, one in verdicts(text, [answer]).items() if one}
    assert found == set(right.split())


def test_an_alias_is_right() -> None:
    assert verdicts("USA.", ["United States", "USA"])["exact"]
    assert not verdicts("USA.", ["United States"])["contains"]


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("Rome", False),
        ("", False),
        ("Spanish Spanish Spanish", True),
        ("very, very good", False),
        ("the king of the king of the king of the", True),
        ("is a city in Norland and a country in the world of cats", False),
        ("a b c d e a b c d e a b c d e a b c d e a b", True),  # no phrase of four, but few words
        ("New York, New York and Rome", False),
    ],
)
def test_degenerate_texts(text: str, repeats: bool) -> None:
    assert degenerates(text) == repeats
