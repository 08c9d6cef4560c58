"""A request: its slot, its parts, and how its subject is found in the prompt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import Probe, Request


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("The mother tongue of {} is", "Ada Marsh", "The mother tongue of {} is"),
        ("The mother tongue of Ada Marsh is", "Ada Marsh", "The mother tongue of {} is"),
        ("Ada Marsh speaks", " Ada Marsh ", "{} speaks"),
        ("Ada said that {subject} speaks", "Ada", "Ada said that {subject} speaks"),
        ("{} or {} is a dict, Ada said", "Ada", "{} or {} is a dict, {subject} said"),
        ("In {} style, {subject} writes", "Ada", "In {} style, {subject} writes"),
        ("Nadal said that Ada speaks", "Ada", "Nadal said that {} speaks"),
        ("Adams, so they say, is Ada", "Ada", "Adams, so they say, is {}"),
        ("the cats", "cat", "the {}s"),
        ("C++ (2011) is", "C++ (2011)", "{} is"),
    ],
)
def test_the_slot_replaces_the_subject(prompt: str, subject: str, expected: str) -> None:
    request = Request.parse(prompt, subject, "French")
    assert (request.prompt, request.subject) == (expected, subject.strip())


@given(st.text(max_size=15), st.text(min_size=1, max_size=8), st.text(max_size=15))
def test_filling_the_slot_gives_the_prompt_back(prefix: str, subject: str, suffix: str) -> None:
    subject = subject.strip()
    prompt = prefix + subject + suffix
    assume(subject and "{}" not in prompt and prompt.count(subject) == 1)
    assert Request.parse(prompt, subject, "French").filled == prompt


@pytest.mark.parametrize(
    ("prompt", "subject", "target", "message"),
    [
        ("", "Ada", "French", "prompt is ''"),
        ("{} is", "  ", "French", "subject is '  '"),
        ("{} is", None, "French", "subject is None"),
        ("{} is", "Ada", "", "target_new is ''"),
        ("{} is", "Ada", 3, "target_new is 3"),
        (None, "Ada", "French", "prompt is None"),
        ("{} is", "Ada \ud800", "French", "subject is .*surrogate"),
        ("{} and {}", "Ada", "French", "2 slots.*{subject}"),
        ("{subject} and {subject}", "Ada", "French", "2 slots"),
        ("Ada said that {} speaks", "Ada", "French", "'Ada' occurs once beside a '{}'.*{subject}"),
        ("\\frac{}{} by Ada and Ada", "Ada", "French", "occurs 2 times.*{subject}"),
        ("Boris speaks", "Ada", "French", "'Ada' is not in prompt 'Boris speaks'"),
        ("Ada knows Ada", "Ada", "French", "occurs 2 times"),
    ],
)
def test_what_cannot_be_an_edit_is_refused(
    prompt: Any, subject: Any, target: Any, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        Request.parse(prompt, subject, target)


@pytest.mark.parametrize(
    ("subject", "spelled"),
    [
        ("Zo\u00eb", "Zoe\u0308"),  # composed, decomposed
        ("Zoe\u0308", "Zo\u00eb"),
        ("Ada Marsh", "Ada\u00a0Marsh"),
        ("O'Hara", "O\u2019Hara"),
        ("O\u2019Hara", "O'Hara"),
        ("Jean-Luc", "Jean\u2011Luc"),
        ('the "Ada"', "the \u201cAda\u201d"),
        ("\uff21da", "Ada"),  # a full-width letter
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
        ("Ada Marsh", "Ada\u200b Marsh"),  # an invisible character
    ],
)
def test_a_subject_is_found_however_the_prompt_spells_it(subject: str, spelled: str) -> None:
    prompt = f"They say that {spelled} speaks"
    request = Request.parse(prompt, subject, "French")
    assert (request.subject, request.filled) == (spelled, prompt)


def test_a_subject_is_not_found_in_part_of_a_letter() -> None:
    with pytest.raises(RequestError, match="not in prompt"):
        Request.parse("Zoe\u0308 speaks", "Zoo", "French")
    with pytest.raises(RequestError, match="not in prompt"):
        Request.parse("Zo\u00eb speaks", "Zoe\u0301", "French")


def test_the_literal_subject_is_preferred() -> None:
    request = Request.parse("O\u2019Hara knows O'Hara", "O'Hara", "French")
    assert request.prompt == "O\u2019Hara knows {}"


@given(st.text(max_size=12), st.sampled_from(["{}", "{subject}", "Ada"]), st.text(max_size=12))
def test_what_is_parsed_reads_as_it_was_written(prefix: str, middle: str, suffix: str) -> None:
    """Whatever braces a text has, filling the slot changes nothing but the slot."""
    prompt = prefix + middle + suffix
    try:
        request = Request.parse(prompt, "Ada", "French")
    except RequestError:
        return
    slot = "{subject}" if "{subject}" in prompt else "{}"
    expected = prompt if "Ada" in prompt and slot == "{}" else prompt.replace(slot, "Ada")
    assert request.filled == expected


def test_a_template_by_its_layout_keeps_its_slot() -> None:
    request = Request.parse("Ada said that {} speaks", "Ada", "French", template=True)
    assert request.filled == "Ada said that Ada speaks"


def test_a_request_cannot_be_changed() -> None:
    request = Request.parse("{} is", "Ada", "French")
    with pytest.raises(AttributeError):
        request.subject = "Boris"  # type: ignore[misc]
    with pytest.raises(TypeError):
        request.locality["new"] = Probe((), ())  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "Ada speaks"}, "0 slots"),
        ({"prompt": "{} and {}"}, "2 slots"),
        ({"prompt": 3}, "prompt is 3"),
        ({"subject": ""}, "subject is ''"),
        ({"target_new": None}, "target_new is None"),
        ({"ground_truth": ["German"]}, "ground_truth is"),
        ({"rephrase": "Ada's tongue is"}, "rephrase is .*tuple"),
        ({"rephrase": ("fine", " ")}, "rephrase is ' '"),
        ({"locality": [Probe(("a",), ("b",))]}, "locality is .*must map names to probes"),
        ({"portability": {"hop": ("a", "b")}}, "portability is .*must map names to probes"),
        ({"accept": ["Francais"]}, "accept is .*tuple"),
        ({"generation": ("Ada's mother speaks", "")}, "generation is ''"),
        ({"attribute": "Boris speaks"}, "attribute is .*tuple"),
        ({"references": (None,)}, "references is None"),
        ({"case_id": 5}, "case_id is 5"),
        ({"relation": " "}, "relation is ' '"),
    ],
)
def test_a_request_made_directly_is_checked_too(change: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {"prompt": "{} speaks", "subject": "Ada", "target_new": "French"}
    assert Request(**parts) == Request.parse(**parts)
    with pytest.raises(RequestError, match=message):
        Request(**parts | change)


@pytest.mark.parametrize(
    ("accept", "message"),
    [
        ((("Francais",),), "2 prompts but 1 tuples"),
        ((("Francais",), ("",)), "accept is ''"),
        (((), "Deutsch"), "accept is 'Deutsch'.*tuple"),
    ],
)
def test_other_answers_of_a_probe_belong_to_its_prompts(accept: Any, message: str) -> None:
    prompts, answers = ("Ada speaks", "Boris speaks"), ("French", "German")
    probe = Probe(prompts, answers, ((), ("Deutsch",)))
    assert probe.rows == [("Ada speaks", "French", ()), ("Boris speaks", "German", ("Deutsch",))]
    assert Probe.of(probe.rows) == probe
    assert Probe.of(Probe(prompts, answers).rows) == Probe(prompts, answers)
    with pytest.raises(RequestError, match=message):
        Probe(prompts, answers, accept)
