"""Which requests are edited: order, repetitions, offset, limit."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alphaedit_plugin.common.errors import ConfigError, RequestError
from alphaedit_plugin.data.base import EditData, Location
from alphaedit_plugin.data.conflicts import conflicts
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.selection import select_fitting
from alphaedit_plugin.data.settings import DataConfig
from tests.data.files import load, write


def record(subject: str, target: str = "French", **more: Any) -> dict[str, Any]:
    return {"prompt": "{} speaks", "subject": subject, "target_new": target} | more


def select(folder: Path, records: Sequence[dict[str, Any]], **settings: Any) -> EditData:
    return load("plain", write(folder, list(records)), **settings)


def subjects(data: EditData) -> list[str]:
    return [request.subject for request in data.requests]


PEOPLE = [record(f"P{i}") for i in range(20)]


def test_a_seed_shuffles_the_same_way_every_time(tmp_path: Path) -> None:
    plain, first, again, other = (
        select(tmp_path, PEOPLE, shuffle_seed=seed) for seed in (None, 1, 1, 2)
    )
    assert subjects(plain) == [f"P{i}" for i in range(20)]
    assert subjects(first) == subjects(again) != subjects(other)
    assert sorted(subjects(first)) == sorted(subjects(plain))
    assert [f"P{location.record}" for location in first.locations] == subjects(first)
    assert first.conventions == "shuffled with seed 1"


def test_slices_do_not_overlap_and_leave_nothing_out(tmp_path: Path) -> None:
    records = [PEOPLE[0], PEOPLE[0], {"bad": 1}, *PEOPLE[1:]]
    slices = [
        subjects(select(tmp_path, records, shuffle_seed=5, offset=start, limit=7))
        for start in (0, 7, 14)
    ]
    assert [len(one) for one in slices] == [7, 7, 6]
    assert len({name for one in slices for name in one}) == 20


def test_the_offset_is_said(tmp_path: Path) -> None:
    data = select(tmp_path, PEOPLE, offset=18)
    assert (subjects(data), data.conventions) == (["P18", "P19"], "from case 18 on")
    with pytest.raises(ConfigError, match=r"data\.offset is 20, but there are only 20 usable"):
        select(tmp_path, PEOPLE, offset=20)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (record("Ada"), "repeats record 0"),
        (record("Ada", " French"), "repeats record 0"),
        (record("Ada", "Greek"), "asks the same of 'Ada' as record 0"),
        (record("Ada", prompt="Ada speaks"), "repeats record 0"),
    ],
)
def test_what_was_asked_before_is_dropped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, second: dict[str, Any], reason: str
) -> None:
    with caplog.at_level(logging.WARNING):
        data = select(tmp_path, [record("Ada"), second, record("Boris")])
    assert subjects(data) == ["Ada", "Boris"]
    (dropped,) = data.dropped
    assert dropped.location == Location(1)
    assert dropped.reason.startswith(reason)
    assert reason in caplog.text


def test_the_relation_says_what_is_asked_where_it_is_known(tmp_path: Path) -> None:
    """The same relation in other words is the same, and so are the same words."""
    first = record("Ada", relation="tongue")
    same = record("Ada", prompt="{}'s tongue is", relation="tongue")
    other = record("Ada", prompt="{} lives in", relation="home")
    data = select(tmp_path, [first, same, other])
    assert [request.relation for request in data.requests] == ["tongue", "home"]


def test_repetitions_can_be_kept(tmp_path: Path) -> None:
    records = [record("Ada"), record("Ada"), record("Ada", "Greek")]
    data = select(tmp_path, records, unique=False)
    assert [request.target_new for request in data.requests] == ["French", "French", "Greek"]
    assert not data.dropped
    assert data.conventions == "repeated and contradicting requests kept"


def test_what_follows_from_a_repeated_edit_is_asked_all_the_same(tmp_path: Path) -> None:
    def hop(*prompts: str) -> dict[str, Any]:
        return {"hop": {"prompt": list(prompts), "ground_truth": ["x"] * len(prompts)}}

    records = [
        record("Ada", portability=hop("one", "two")),
        record("Boris"),
        record("Ada", portability=hop("two", "three")),
    ]
    data = select(tmp_path, records)
    assert subjects(data) == ["Ada", "Boris"]
    assert [one.location.record for one in data.trimmed] == [2]
    assert data.requests[0].portability == {"hop": Probe(("one", "two", "three"), ("x",) * 3)}


# ---------------------------------------------------------------------------------------------
# What asks the same is what the engine says does

# Few of each, so that much is asked again; some are one text in several spellings.
SUBJECTS = st.sampled_from(("Zoë", "Zoe\u0308", "Zoe", "Ada Marsh", "Ada\u00a0Marsh"))
PROMPTS = st.sampled_from(
    ("{} speaks", "{}  speaks", "{subject} speaks", "{}'s tongue", "{}’s tongue")
)
ANSWERS = st.sampled_from(("French", " French", "French\u200b", "Greek"))
RELATIONS = st.sampled_from((None, "P1", "P2"))
HOPS = st.sampled_from(({}, {"hop": Probe(("So?",), ("so",))}))
ASKED = st.builds(
    Request, PROMPTS, SUBJECTS, ANSWERS, relation=RELATIONS, portability=HOPS
)  # fmt: skip
CASES = st.lists(st.lists(ASKED, min_size=1, max_size=3), min_size=1, max_size=8)


def data_of(cases: Sequence[Sequence[Request]]) -> EditData:
    placed = [(one, Location(number, None)) for number, case in enumerate(cases) for one in case]
    return EditData(
        tuple(one for one, _ in placed), locations=tuple(location for _, location in placed)
    )


def refuse_greek(request: Request) -> None:
    if request.target_new == "Greek":
        raise RequestError("no Greek")


@given(CASES, st.none() | st.integers(0, 9), st.integers(0, 2))
@example([[Request("{} speaks", "A", "x", relation="P1")],
          [Request("{} speaks", "A", "y", relation="P2")]], None, 0)  # fmt: skip
@example([[Request("{} speaks", "A", "x", relation="P1")], [Request("{} talks", "A", "x")],
          [Request("{} talks", "A", "x", relation="P1"), Request("{} speaks", "B", "x")],
          [Request("{} talks", "A", "y")]], None, 1)  # fmt: skip
def test_nothing_that_is_left_contradicts_or_repeats_anything(
    cases: list[list[Request]], shuffle_seed: int | None, offset: int
) -> None:
    settings = DataConfig(shuffle_seed=shuffle_seed, offset=offset)
    try:
        data = select_fitting(data_of(cases), settings)
    except ConfigError:
        assert offset or all(conflicts(case) for case in cases)  # nothing is left
        return
    assert conflicts(data.requests) == {}
    for one, other in itertools.combinations(data.requests, 2):
        assert not set(one.questions) & set(other.questions)


@given(st.lists(ASKED, min_size=2, max_size=2))
def test_what_the_engine_calls_a_contradiction_is_dropped(pair: list[Request]) -> None:
    data = select_fitting(data_of([[one] for one in pair]), DataConfig())
    contradicts = bool(conflicts(pair))
    assert any("asks the same" in one.reason for one in data.dropped) is contradicts
    assert len(data.requests) == (
        1 if contradicts or set(pair[0].questions) & set(pair[1].questions) else 2
    )


@given(CASES, st.booleans(), st.integers(1, 4))
def test_slices_of_what_fits_are_as_large_as_asked_and_do_not_overlap(
    cases: list[list[Request]], unique: bool, size: int
) -> None:
    single = data_of([[replace(case[0], portability={})] for case in cases])
    if all(request.target_new == "Greek" for request in single.requests):
        with pytest.raises(ConfigError, match=r"holds no request that can be edited: .*no Greek"):
            select_fitting(single, DataConfig(unique=unique), refuse_greek)
        return
    whole = select_fitting(single, DataConfig(unique=unique), refuse_greek)
    assert not any(request.target_new == "Greek" for request in whole.requests)
    for start in range(0, len(whole.requests), size):
        settings = DataConfig(unique=unique, offset=start, limit=size)
        part = select_fitting(single, settings, refuse_greek)
        assert part.locations == whole.locations[start : start + size]


# ---------------------------------------------------------------------------------------------
# What does not fit


def test_another_record_takes_the_place_of_one_that_does_not_fit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[str] = []

    def check(request: Request) -> None:
        asked.append(request.subject)
        refuse_greek(request)

    people = [Request("{} speaks", f"P{i}", "Greek" if i % 2 else "x") for i in range(9)]
    data = select_fitting(data_of([[one] for one in people]), DataConfig(limit=3), check)
    assert subjects(data) == ["P0", "P2", "P4"]
    assert asked == ["P0", "P1", "P2", "P3", "P4"]  # each once, and none that is not needed
    assert caplog.messages == ["default: 2 records dropped: 2 × no Greek [record 1, record 3]"]


def test_an_edit_that_does_not_fit_costs_its_record_and_no_other() -> None:
    """The edit that two records share is made with the second one."""
    shared, bad = Request("{} speaks", "A", "x"), Request("{} speaks", "B", "Greek")
    hop = {"hop": Probe(("So?",), ("so",))}
    cases = [[shared, bad], [Request("{} speaks", "C", "x"), replace(shared, portability=hop)]]
    data = select_fitting(data_of(cases), DataConfig(), refuse_greek)
    assert data.requests == tuple(cases[1])
    assert [(one.location.record, one.reason) for one in data.dropped] == [(0, "no Greek")]


def test_a_record_that_does_not_fit_can_be_refused(tmp_path: Path) -> None:
    data = data_of([[Request("{} speaks", "A", "x")], [Request("{} speaks", "B", "Greek")]])
    with pytest.raises(RequestError, match=r"default: record 1: no Greek; data\.strict=false"):
        select_fitting(data, DataConfig(strict=True), refuse_greek)
    assert subjects(select_fitting(data, DataConfig(strict=True, limit=1), refuse_greek)) == ["A"]
    with pytest.raises(RequestError, match=r"edits\.json: record 1: no 'prompt'"):
        select(tmp_path, [PEOPLE[0], {"subject": "B", "target_new": "x"}], strict=True)
    assert select(tmp_path, [PEOPLE[0], PEOPLE[0]], strict=True).dropped  # a repetition is none
