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
from alphaedit_plugin.experiments.results import METRICS, read_cell, write_cell
from alphaedit_plugin.metrics.base import MetricValue
from alphaedit_plugin.metrics.evaluation import Evaluation
from tests.experiments.made import EDITS, cell

MADE = cell("memit", True, 0.9, layers=[3], missing=None)


def test_nothing_is_lost(tmp_path: Path) -> None:
    write_cell(MADE, tmp_path)
    assert read_cell(tmp_path) == read_cell(tmp_path / METRICS) == MADE
    entry = json.loads((tmp_path / METRICS).read_text())
    assert entry["final"]["score"] == MADE.final.score
    hits = entry["points"][-1]["evaluation"]["efficacy.success"]["hits"]
    assert len(hits) == EDITS


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    odd = {"perplexity": MetricValue(math.inf), "odd": MetricValue(math.nan)}
    write_cell(replace(MADE, before=Evaluation({**MADE.before.readings, **odd})), tmp_path)
    assert "Infinity" not in (tmp_path / METRICS).read_text()
    before = read_cell(tmp_path).before
    assert math.isnan(before.summary["perplexity"])
    assert math.isnan(before.summary["odd"])


def without(*keys: str | int) -> Callable[[dict[str, Any]], object]:
    def remove(whole: Any) -> None:
        for key in keys[:-1]:
            whole = whole[key]
        del whole[keys[-1]]

    return remove


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema=2), "schema 2, this version reads 3"),
        (without("setting", "seed"), "damaged .*seed"),
        (without("base"), "damaged .*base"),
        (without("before", "efficacy.success"), "damaged .*without efficacy"),
        (lambda d: d.update(points=[]), "damaged .*no points"),
        (lambda d: d.update(layers=3), "damaged"),
        (lambda d: d["before"]["efficacy.success"].update(hits="01x"), "damaged"),
        (lambda d: d["before"]["specificity.success"].update(counts=[1]), "but 1 counts"),
    ],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write_cell(MADE, tmp_path)
    file = tmp_path / METRICS
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=message) as caught:
        read_cell(tmp_path)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "schema None")])
def test_another_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / METRICS).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_cell(tmp_path)
    with pytest.raises(ConfigError, match=r"no .*metrics\.json: give folders"):
        read_cell(tmp_path / "nowhere.json" / METRICS)
