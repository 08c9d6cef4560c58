"""What a journal says of a request: all of it comes back, and nothing is read as something else."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.patches.journal import Journal
from alphaedit_plugin.patches.record import converter, pack, unpack
from alphaedit_plugin.patches.sessions import open_session
from tests.patches.edits import LAYERS, RICH, edit, fresh
from tests.saved import overrides_of
from tests.tiny import REQUESTS

said = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
some = st.lists(said, max_size=3).map(tuple)


@st.composite
def probes(draw: st.DrawFn) -> Probe:
    rows = draw(st.lists(st.tuples(said, said, some), max_size=3))
    return Probe.of(rows)


named = st.dictionaries(st.text(max_size=4), probes(), max_size=2)
# By annotation: a field of another type needs a strategy here, or the test fails.
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "str": said,
    "str | None": st.none() | said,
    "tuple[str, ...]": some,
    "Mapping[str, Probe]": named,
}
PARTS = {f.name: STRATEGIES[str(f.type)] for f in fields(Request)} | {
    "prompt": said.map(lambda text: f"{text.replace('{', '')} {{}}")
}


def there_and_back(request: Request) -> Request:
    text = json.dumps(converter().unstructure(request))
    return converter().structure(json.loads(text), Request)


@given(st.builds(Request, **PARTS))
@example(RICH)
def test_every_field_comes_back(request: Request) -> None:
    again = there_and_back(request)
    assert again == request
    for one in fields(Request):  # also those that equality might leave out one day
        assert getattr(again, one.name) == getattr(request, one.name)
    for name, probe in request.portability.items():
        assert again.portability[name].rows == probe.rows


FULL = json.loads(json.dumps(converter().unstructure(RICH)))
PLACES = [(one.name,) for one in fields(Request)] + [
    ("locality", "nearby", one.name) for one in fields(Probe)
]


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
@pytest.mark.parametrize("value", [5, True, 1.5, "text", ["text", 5], [["text"], "text"], {"a": 1}])
def test_nothing_is_read_as_what_it_is_not(place: tuple[str, ...], value: Any) -> None:
    """But a text is a text, wherever one is wanted."""
    row, inner = changed(place, value), place[-1]
    if value == "text" and inner in (
        "subject",
        "target_new",
        "ground_truth",
        "case_id",
        "relation",
    ):
        assert getattr(converter().structure(row, Request), inner) == value
        return
    with pytest.raises((ValueError, RequestError)) as refused:
        converter().structure(row, Request)
    assert len(str(refused.value).split()) > 4


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_what_was_written_without_a_later_field_has_its_default(place: tuple[str, ...]) -> None:
    kind = Request if len(place) == 1 else Probe
    (field,) = [one for one in fields(kind) if one.name == place[-1]]
    row = changed(place, MISSING)
    if field.default is MISSING and field.default_factory is MISSING:
        with pytest.raises(ValueError, match=f"it has a {kind.__name__.lower()} without '"):
            converter().structure(row, Request)
        return
    found = converter().structure(row, Request)
    part = found if kind is Request else found.locality["nearby"]
    default = field.default_factory() if field.default is MISSING else field.default  # type: ignore[misc]
    assert getattr(part, field.name) == default


def test_a_probe_with_a_field_of_a_later_version_is_refused() -> None:
    with pytest.raises(ValueError, match="it has a probe with 'wish': update alphaedit-plugin"):
        converter().structure(changed(("locality", "nearby", "wish"), "x"), Request)


def test_how_far_searches_came_is_kept_and_may_be_missing(tmp_path: Path) -> None:
    edit(session := open_session(fresh(), LAYERS, tmp_path / "j"), 0, 1)
    again = open_session(fresh(), LAYERS, tmp_path / "j")
    assert [entry.searches for entry in again.journal] == [e.searches for e in session.journal]
    again.undo(session.ids[0])
    assert again.journal[0].searches == session.journal[0].searches[1:]
    content = json.loads(json.dumps(pack(session.journal[0])[0]))
    for searches, message in (([[1.0, 0.5]], "1 searches for 2"), ([["a", 1]] * 2, "no number")):
        with pytest.raises(ValueError, match=message):
            unpack(content | {"searches": searches})
    del content["searches"]
    assert unpack(content).entry.searches == ()


def test_a_session_that_goes_on_knows_what_it_holds(tmp_path: Path) -> None:
    edit(session := open_session(fresh(), LAYERS, tmp_path / "j"), 0, requests=[RICH, REQUESTS[0]])
    assert open_session(fresh(), LAYERS, tmp_path / "j").requests == session.requests


def test_a_resumed_run_edits_nothing_again(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of MQuAKE, whose questions have several right answers."""
    record = {
        "requested_rewrite": [
            {
                "prompt": "{} plays the", "subject": "Boris Lund", "question": "Boris Lund?",
                "target_new": {"str": "tennis"}, "target_true": {"str": "violin"},
            }
        ],
        "questions": ["What does Boris Lund play?"],
        "new_answer": "tennis",
        "new_answer_alias": ["lawn tennis"],
    }  # fmt: skip
    data = tmp_path / "mquake.json"
    data.write_text(json.dumps([record]))
    words = ["edit", *overrides_of(saved), "data=mquake", f"data.path={data}", "null_space=false"]
    words += ["base=rome", "model.layers=[1]", "model.target.steps=2", f"journal={tmp_path / 'j'}"]
    assert main(words) == 0
    capsys.readouterr()
    before = [entry.ids for entry in Journal.read(tmp_path / "j").entries]
    assert main(words) == 0
    assert "in the journal already: 1 of 1" in capsys.readouterr().out
    assert [entry.ids for entry in Journal.read(tmp_path / "j").entries] == before
