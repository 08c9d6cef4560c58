from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import Probe, Request, prepare_requests


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
def test_the_slot_is_put_where_the_subject_stands(prompt: str, subject: str, expected: str) -> None:
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


def test_a_subject_as_it_is_goes_first() -> None:
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


def test_one_request_from_plain_strings() -> None:
    (request,) = prepare_requests("Ada speaks", "French", "Ada", "German", "Ada's tongue is")
    assert request == Request("{} speaks", "Ada", "French", "German", ("Ada's tongue is",))


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
    "column", [{"target_new": ["x"]}, {"subject": ["Ada"]}, {"ground_truth": ["x", "y", "z"]}]
)
def test_columns_of_unequal_length_are_named(column: dict[str, list[str]]) -> None:
    columns: dict[str, Any] = {"target_new": ["x", "y"], "subject": ["Ada", "Boris"]} | column
    (name,) = column
    with pytest.raises(RequestError, match=f"2 prompts but {len(column[name])} {name}"):
        prepare_requests(["Ada is", "Boris is"], **columns)


def test_the_message_says_which_request() -> None:
    with pytest.raises(RequestError, match="request 1: subject 'Ada' is not in"):
        prepare_requests(["Ada is", "Boris is"], ["x", "y"], ["Ada", "Ada"])


def test_a_missing_subject_is_refused() -> None:
    with pytest.raises(RequestError, match="request 0: subject is None"):
        prepare_requests("Ada is", "x")


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
def test_a_request_made_directly_is_checked_as_well(change: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {"prompt": "{} speaks", "subject": "Ada", "target_new": "French"}
    assert Request(**parts) == Request.parse(**parts)
    with pytest.raises(RequestError, match=message):
        Request(**parts | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": None}, "prompts is None: give a text, or a list"),
        ({"target_new": None}, "target_new is None"),
        ({"target_new": {"a": 1, "b": 2}}, "target_new is {"),
        ({"subject": 5}, "subject is 5"),
        ({"target_neg": ["x"]}, "2 prompts but 1 target_neg"),
        ({"rephrase_prompts": [None, 5]}, "request 1: rephrase is 5"),
        ({"rephrase_prompts": [["fine", ""], None]}, "request 0: rephrase is ''"),
        ({"locality_inputs": ["near"]}, r"locality_inputs is \['near'\]: it must be {name"),
        ({"portability_inputs": "hop"}, "portability_inputs is 'hop'"),
        ({"target_new": ["x", "\ud800"]}, "request 1: target_new .*surrogate"),
    ],
)
def test_arguments_of_another_type_are_named(change: dict[str, Any], message: str) -> None:
    columns = {"prompts": ["Ada is", "Boris is"], "target_new": ["x", "y"]}
    columns["subject"] = ["Ada", "Boris"]
    with pytest.raises(RequestError, match=message):
        prepare_requests(**columns | change)


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


def test_a_prompt_may_have_several_rephrasings() -> None:
    (request,) = prepare_requests("Ada is", "x", "Ada", rephrase_prompts=[["Ada was", "So is Ada"]])
    assert request.rephrase == ("Ada was", "So is Ada")
