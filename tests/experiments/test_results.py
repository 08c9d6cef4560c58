"""``metrics.json``: what is read is what was measured; a damaged file is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.experiments.results import METRICS, dumps, read_run
from alphaedit_plugin.metrics.base import MetricValue
from alphaedit_plugin.metrics.evaluation import Evaluation
from tests.experiments.made import EDITS, cell, run, write

MADE = run([cell("memit", False, 0.5, null=None), cell("memit", True, 0.9, layers=[3])])


def test_nothing_is_lost_at_the_last_point(tmp_path: Path) -> None:
    found = read_run(write(tmp_path / "run", MADE))
    assert (found.setting, found.before, found.command) == (
        MADE.setting,
        MADE.before,
        MADE.command,
    )
    for ours, theirs in zip(MADE.cells, found.cells, strict=True):
        assert theirs.final == ours.final
        assert replace(theirs, points=()) == replace(ours, points=())
        assert [p.norms for p in theirs.points] == [p.norms for p in ours.points]


def test_on_the_way_numbers_and_survival_are_kept(tmp_path: Path) -> None:
    found = read_run(write(tmp_path / "run", MADE))
    early, wrote = found.cells[0].points[0].evaluation, MADE.cells[0].points[0].evaluation
    assert early.summary == wrote.summary
    for column in ("efficacy.success", "efficacy.accuracy"):
        assert early.readings[column].totals == wrote.readings[column].totals
    assert early.readings["retention.seen"].totals == ()


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    worn = {"perplexity": MetricValue(math.inf), "odd": MetricValue(math.nan)}
    before = Evaluation({**MADE.before.readings, **worn})
    folder = write(tmp_path / "run", replace(MADE, before=before))
    assert "Infinity" not in (folder / METRICS).read_text()
    found = read_run(folder / METRICS).before  # the file itself will do, too
    assert math.isnan(found.summary["perplexity"])
    assert math.isnan(found.summary["odd"])


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(dumps(MADE))
    return loaded


def without(*keys: str | int) -> str:
    """The text of a run with one part cut out."""
    whole: Any = document()
    part = whole
    for key in keys[:-1]:
        part = part[key]
    del part[keys[-1]]
    return json.dumps(whole)


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    whole = document()
    change(whole)
    return json.dumps(whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged: it is no JSON"),
        ("[]", "layout None, this version reads 2"),
        (changed(lambda d: d.update(schema=1)), "layout 1, this version reads 2"),
        (without("setting", "seed"), "damaged .*seed"),
        (without("cells", 0, "base"), "damaged .*base"),
        (without("before", "efficacy.success"), "damaged .*without efficacy"),
        (without("cells", 0, "points", 0), ""),  # a point less is a shorter run
        (changed(lambda d: d.update(cells=[])), "damaged .*missing"),
        (changed(lambda d: d["cells"][0].update(points=[])), "damaged .*missing"),
        (changed(lambda d: d["cells"][0].update(layers=3)), "damaged"),
        (changed(lambda d: d["before"]["efficacy.success"].update(hits="01x")), "damaged"),
        (changed(lambda d: d["before"]["specificity.success"].update(counts=[1])), "but 1 counts"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / METRICS
    file.write_text(text)
    if not message:
        assert len(read_run(tmp_path).cells[0].points) == 2
        return
    with pytest.raises(ConfigError, match=message) as caught:
        read_run(tmp_path)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no .*metrics\.json: give folders"):
        read_run(tmp_path)


def test_hits_are_short() -> None:
    entry = document()["cells"][0]["points"][-1]["evaluation"]
    assert set(entry["efficacy.success"]["hits"]) <= {"0", "1"}
    assert len(entry["efficacy.success"]["hits"]) == EDITS
