"""What a file of edits says comes back, field by field, and nothing is read as something else."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.serialize import converter
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.editing.entry import Entry, Search, Write
from alphaedit_plugin.models.fingerprint import Fingerprint
from alphaedit_plugin.patches.document import Document, write_document
from alphaedit_plugin.patches.header import Header, Layer
from tests.patches.edits import RICH

said = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
some = st.lists(said, max_size=3).map(tuple)
rows = st.lists(st.tuples(said, said, some), max_size=3)
named = st.dictionaries(st.text(max_size=4), rows.map(Probe.of), max_size=2)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
# By annotation: a field of another type needs a strategy here, or the tests fail.
OF_REQUEST: dict[str, st.SearchStrategy[Any]] = {
    "str": said,
    "str | None": st.none() | said,
    "tuple[str, ...]": some,
    "Mapping[str, Probe]": named,
}
requests = st.builds(
    Request,
    **{f.name: OF_REQUEST[str(f.type)] for f in fields(Request)}
    | {"prompt": said.map(lambda text: f"{text.replace('{', '')} {{}}")},
)
LAYERS = {1: Layer("one", (3, 40), "b1"), 3: Layer("three", (2, 5), "b3")}
HEADER = Header("model", "float32", LAYERS, Fingerprint(torch.randn(5)), Fingerprint(torch.ones(2)))


def there_and_back(request: Request) -> Request:
    return converter().structure(json.loads(json.dumps(converter().unstructure(request))), Request)


@given(requests)
@example(RICH)
def test_every_field_of_a_request_comes_back(request: Request) -> None:
    again = there_and_back(request)
    for one in fields(Request):  # also those that equality might leave out one day
        assert getattr(again, one.name) == getattr(request, one.name)
    for name, probe in request.portability.items():
        assert again.portability[name].rows == probe.rows


@st.composite
def writes(draw: st.DrawFn) -> Write:
    number = draw(st.sampled_from(sorted(LAYERS)))
    (d_out, d_in), rank = LAYERS[number].shape, draw(st.integers(0, 3))
    torch.manual_seed(draw(st.integers(0, 9)))
    dense = torch.randn(d_out, d_in)
    sparse = torch.where(dense > draw(st.sampled_from([0.0, 1.5, 9.0])), dense, 0)
    factored = Delta(torch.randn(d_out, rank), torch.randn(rank, d_in).T)
    return Write(number, draw(st.sampled_from([factored, Delta(dense), Delta(sparse)])))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    asked = draw(st.lists(requests, max_size=3))
    count = len(asked)
    keys = {
        n: torch.randn(LAYERS[n].shape[1], count) for n in draw(st.sets(st.sampled_from([1, 3])))
    }
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    searched = st.lists(st.builds(Search, numbers, numbers), min_size=count, max_size=count)
    checked = st.dictionaries(st.integers(0, 99), said, max_size=2)
    ids = st.lists(said, min_size=count, max_size=count, unique=True).map(tuple)
    parts: dict[str, st.SearchStrategy[Any]] = {
        "requests": st.just(tuple(asked)), "writes": st.lists(writes(), max_size=3).map(tuple),
        "past_keys": st.just(keys), "failed": st.lists(requests, max_size=2).map(tuple),
        "searches": st.just(()) | searched.map(tuple), "name": said, "ids": ids,
        "method": st.dictionaries(st.text(max_size=3), json_values), "time": said,
        "version": said, "before": checked, "after": checked,
    }  # fmt: skip
    return Entry(**{one.name: draw(parts[one.name]) for one in fields(Entry)})


@given(entries())
def test_every_field_of_an_entry_comes_back(
    tmp_path_factory: pytest.TempPathFactory, entry: Entry
) -> None:
    path = tmp_path_factory.getbasetemp() / "entry"
    write_document(path, "entry", entry)
    document = Document(path)
    again = document.read(Entry, HEADER)
    assert document.kind == "entry"
    assert [write.layer for write in again.writes] == [write.layer for write in entry.writes]
    for new, old in zip(again.writes, entry.writes, strict=True):
        assert torch.equal(new.delta.dense, old.delta.dense)
        assert (new.delta.right is None) == (old.delta.right is None)
    assert again.past_keys.keys() == entry.past_keys.keys()
    assert all(torch.equal(again.past_keys[n], entry.past_keys[n]) for n in entry.past_keys)
    tensors = {"writes": (), "past_keys": {}}
    assert replace(again, **tensors) == replace(entry, **tensors)


def test_every_field_of_a_header_comes_back(tmp_path: Path) -> None:
    write_document(tmp_path / "x", "journal", HEADER)
    again = Document(tmp_path / "x").header()
    for name in ("fingerprint", "sample"):
        assert torch.equal(getattr(again, name).values, getattr(HEADER, name).values)
    assert replace(again, fingerprint=HEADER.fingerprint, sample=HEADER.sample) == HEADER


FULL = converter().unstructure(RICH)
PLACES = [(one.name,) for one in fields(Request)] + [
    ("locality", "nearby", one.name) for one in fields(Probe)
]
TEXTS = {"prompt", "subject", "target_new", "ground_truth", "case_id", "relation"}


def changed(place: tuple[str, ...], value: Any) -> Any:
    row = json.loads(json.dumps(FULL))
    *above, last = place
    inner = row
    for name in above:
        inner = inner[name]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return row


@pytest.mark.parametrize("place", [*PLACES, ("locality", "nearby")], ids=".".join)
def test_nothing_is_read_as_what_it_is_not(place: tuple[str, ...]) -> None:
    """Nor is it only said that something is wrong: the message begins with where."""
    values = [5, True, 1.5, ["text", 5], [["text"], "text"], {"a": 1}]
    for value in [*values, *([] if place[-1] in TEXTS else ["text"])]:
        with pytest.raises(ValueError, match=f"^{': '.join(place)}: "):
            converter().structure(changed(place, value), Request)


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_what_was_written_before_a_field_was_added_has_its_default(place: tuple[str, ...]) -> None:
    kind = Request if len(place) == 1 else Probe
    (field,) = [one for one in fields(kind) if one.name == place[-1]]
    row = changed(place, MISSING)
    if field.default is MISSING and field.default_factory is MISSING:
        with pytest.raises(ValueError, match=f"{kind.__name__} lacks its field '{place[-1]}'"):
            converter().structure(row, Request)
        return
    again = converter().structure(row, Request)
    part = again if kind is Request else again.locality["nearby"]
    default = field.default_factory() if field.default is MISSING else field.default  # type: ignore[misc]
    assert getattr(part, field.name) == default
