"""Texts of a finished cell can be judged without its model."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.experiments.judging import judged
from alphaedit_plugin.experiments.results import read_cell, write_cell
from alphaedit_plugin.metrics.asking import JudgeSettings
from alphaedit_plugin.metrics.judge import Judge
from tests.experiments.made import cell


class Reader(Judge):
    """Grades as a reader would; the first text leaves it puzzled."""

    def grade(self, question: str, target: str, answer: str) -> bool | None:
        return None if "<b>0</b>" in question else target in answer


def test_a_written_cell_is_judged_again(tmp_path: Path) -> None:
    write_cell(cell("memit", True, 0.5), tmp_path)
    before = read_cell(tmp_path)
    write_cell(judged(before, Reader(JudgeSettings("http://localhost"))), tmp_path)
    after = read_cell(tmp_path)
    right = ["Rome" in text.after for text in before.texts]
    assert "judge" not in after.texts[0].verdicts
    assert [text.verdicts["judge"] for text in after.texts[1:]] == right[1:]
    column = "generated.bare.efficacy.judge"
    assert after.final.summary[column] == pytest.approx(sum(right[1:]) / len(right[1:]))
    rest = {name: value for name, value in after.final.readings.items() if name != column}
    assert rest == before.final.readings


def test_settings_name_an_address_and_no_key() -> None:
    chosen = ["compare.generate.judge.url=http://localhost:8000/v1"]
    config = load_config(chosen, ComparisonConfig)
    assert config.compare.generate.judge == JudgeSettings("http://localhost:8000/v1")
    with pytest.raises(ConfigError, match="http"):
        load_config(["compare.generate.judge.url=file:///etc"], ComparisonConfig)
    with pytest.raises(ConfigError, match="api_key"):
        load_config(["+compare.generate.judge.api_key=sk"], ComparisonConfig)
