from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.common.serialize import converter


@dataclass(frozen=True)
class Inner:
    shape: tuple[int, int]
    color: str = "red"


@dataclass(frozen=True)
class Outer:
    text: str
    flag: bool
    number: float
    maybe: int | None
    layers: Mapping[int, Inner]
    rows: tuple[Inner, ...]
    by_name: Mapping[str, tuple[str, ...]]
    anything: Mapping[str, Any] = field(default_factory=dict)


inner = st.builds(Inner, st.tuples(st.integers(), st.integers()), st.text())
outer = st.builds(
    Outer,
    text=st.text(), flag=st.booleans(), number=st.floats(allow_nan=False, allow_infinity=False),
    maybe=st.none() | st.integers(), layers=st.dictionaries(st.integers(0, 10**6), inner),
    rows=st.lists(inner).map(tuple),
    by_name=st.dictionaries(st.text(), st.lists(st.text()).map(tuple), max_size=2),
    anything=st.dictionaries(st.text(), st.lists(st.integers()), max_size=2),
)  # fmt: skip
FULL = Outer("t", True, 0.5, None, {3: Inner((1, 2))}, (Inner((3, 4), "blue"),), {"a": ("b",)})


def read(content: Any) -> Outer:
    return converter().structure(json.loads(json.dumps(content)), Outer)


@given(outer)
def test_what_is_written_is_read(value: Outer) -> None:
    assert read(converter().unstructure(value)) == value


def test_no_number_is_null() -> None:
    content = converter().unstructure(Outer("t", True, math.inf, None, {}, (), {}))
    assert content["number"] is None
    assert math.isnan(read(content).number)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 5}, "text: expected a text, found 5"),
        ({"flag": 1}, "flag: expected true or false"),
        ({"number": True}, "number: expected a number, found True"),
        ({"number": "1"}, "number: expected a number"),
        ({"maybe": 1.0}, "maybe: expected a whole number"),
        ({"layers": []}, "layers: expected an object"),
        ({"layers": {"-1": {}}}, "layers: expected a whole number, found '-1'"),
        ({"layers": {"9" * 99: {}}}, "layers: expected a whole number"),
        ({"layers": {"3": {"shape": [1]}}}, r"layers: 3: shape: expected 2 values, found \[1\]"),
        ({"rows": "text"}, "rows: expected a list"),
        ({"rows": [{"shape": [1, 2], "color": True}]}, "rows: color: expected a text"),
        ({"rows": [{}]}, "rows: Inner lacks its field 'shape'"),
        ({"by_name": {"a": [None]}}, "by_name: a: expected a text"),
        ({"wish": 1}, "unknown field 'wish' of Outer: a later version"),
    ],
)
def test_anything_else_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(converter().unstructure(FULL) | change)
