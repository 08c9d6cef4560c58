"""Which requests are edited: order, repetitions, offset, limit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.data import EditData
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.request import Probe
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
    assert [f"P{place.record}" for place in first.places] == subjects(first)
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
        (record("Ada"), "repeats record 0 (line 2)"),
        (record("Ada", " French"), "repeats record 0 (line 2)"),
        (record("Ada", "Greek"), "asks the same of 'Ada' as record 0 (line 2)"),
        (record("Ada", prompt="Ada speaks"), "repeats record 0 (line 2)"),
    ],
)
def test_what_was_asked_before_is_dropped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, second: dict[str, Any], reason: str
) -> None:
    with caplog.at_level(logging.WARNING):
        data = select(tmp_path, [record("Ada"), second, record("Boris")])
    assert subjects(data) == ["Ada", "Boris"]
    (dropped,) = data.dropped
    assert (dropped.record, dropped.line) == (1, 3)
    assert dropped.reason.startswith(reason)
    assert reason in caplog.text


def test_the_relation_says_what_is_asked_where_it_is_known(tmp_path: Path) -> None:
    """The same relation in other words is the same; the same words are, without a relation."""
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
    assert [one.record for one in data.trimmed] == [2]
    assert data.requests[0].portability == {"hop": Probe(("one", "two", "three"), ("x",) * 3)}
