"""WikiBigEdit in its own layout and in EasyEdit's."""

from __future__ import annotations

from pathlib import Path

from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe
from tests.data.files import load, without, write

RECORD = {
    "tag": "new",
    "subject": "Norland",
    "update": "Who leads Norland?",
    "rephrase": "Who is the leader of Norland?",
    "ans": "Ada Marsh",
    "personas": "Arr, who be leadin' Norland?",
    "mhop": "Where was the leader of Norland born?",
    "mhop_ans": "Velm",
    "loc": "Who leads Sutland?",
    "loc_ans": "Boris Lund",
}
FLAT = {
    "prompt": "Who leads Norland?",
    "target_new": "Ada Marsh",
    "subject": "Norland",
    "rephrase_prompt": "Who is the leader of Norland?",
    "locality_prompt": "Who leads Sutland?",
    "locality_ground_truth": "Boris Lund",
}


def test_both_layouts(tmp_path: Path) -> None:
    (full,) = load("wikibigedit", write(tmp_path, [RECORD])).requests
    (flat,) = load("wikibigedit", write(tmp_path, [FLAT])).requests
    for request in (full, flat):
        assert (request.prompt, request.subject) == ("Who leads {}?", "Norland")
        assert (request.target_new, request.ground_truth) == ("Ada Marsh", None)
        assert request.rephrase == ("Who is the leader of Norland?",)
        near = Probe(("Who leads Sutland?",), ("Boris Lund",))
        assert request.locality == {NEIGHBOURHOOD: near}
    assert full.portability == {
        "personas": Probe(("Arr, who be leadin' Norland?",), ("Ada Marsh",)),
        "multi_hop": Probe(("Where was the leader of Norland born?",), ("Velm",)),
    }
    assert dict(flat.portability) == {}


def test_parts_that_are_often_missing(tmp_path: Path) -> None:
    gaps = RECORD | {"mhop": None, "mhop_ans": None, "personas": ""}
    bad = without(RECORD, "ans")
    data = load("wikibigedit", write(tmp_path, [gaps, bad]))
    assert dict(data.requests[0].portability) == {}
    assert [one.reason for one in data.dropped] == ["no 'ans' or 'target_new' in it"]
    assert not data.trimmed
