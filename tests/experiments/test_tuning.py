"""``alphaedit tune``, and comparisons with what it found."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.config.tuned import Tuned, prompt_digest, read_tuned
from alphaedit_plugin.experiments import sweep
from alphaedit_plugin.experiments.results import METRICS, Cell, read_cell
from alphaedit_plugin.experiments.sweep import run_compare
from alphaedit_plugin.experiments.tuning import grids_of, run_tune

QUICK = [
    "model.target.steps=5", "model.moments.tokens=3000", "compare.retention=10",
    "batch_size=4", "compare.bases=[memit]", "compare.jobs=1",
]  # fmt: skip
GRIDS = (
    "+compare.tuning.grids={memit:{plain:{model.moment_weight:[1e9,300]},"
    "null_space:{projector.l2:[1,1e9]}}}"
)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    words = [*QUICK, GRIDS, "compare.tuning.edits=8", f"compare.tuning.out={folder}"]
    shown = StringIO()
    run_tune(words, Console(file=shown, width=200))
    assert "moment_weight=300" in shown.getvalue()
    return folder


def cells_in(folder: Path) -> list[Cell]:
    return [read_cell(path) for path in sorted(folder.rglob(METRICS))]


def test_the_best_of_each_side_is_kept_and_everything_that_was_tried(tuned: Path) -> None:
    cells, found = cells_in(tuned), read_tuned(str(tuned))
    assert len(cells) == 4
    assert found.settings == {
        "memit": {"plain": ["model.moment_weight=300"], "null_space": ["projector.l2=1"]}
    }
    table = (tuned / "tuning.md").read_text()
    assert "**model.moment_weight=300**" in table
    for cell in cells:
        assert len(cell.points) == 1
        assert f"{cell.final.score:.3f}" in table
        assert set(cell.asked) <= set(found.asked)
        assert len(cell.asked) > 8  # the edits, and facts that must survive
    assert table.count("**MEMIT**") == 2


def test_what_was_tried_is_not_tried_again(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("edited again")

    before = (tuned / "tuned.yaml").read_text()
    monkeypatch.setattr("alphaedit_plugin.experiments.cell.CellRun.to_the_end", fail)
    run_tune([*QUICK, GRIDS, "compare.tuning.edits=8", f"compare.tuning.out={tuned}"], QUIET)
    assert (tuned / "tuned.yaml").read_text() == before


def test_a_comparison_takes_each_sides_settings_and_other_records(
    tuned: Path, tmp_path: Path
) -> None:
    words = [*QUICK, "compare.edits=8", f"compare.out={tmp_path}", f"compare.tuned={tuned}"]
    plain, projected = (read_cell(folder) for folder in run_compare(words, QUIET))
    assert plain.settings["moment_weight"] == 300
    assert projected.settings["l2"] == 1
    asked = set(read_tuned(str(tuned)).asked)
    for cell in (plain, projected):
        assert cell.setting.edits == 8
        assert not set(cell.asked) & asked


def test_what_is_typed_overrides_what_was_tuned(tuned: Path) -> None:
    composing = sweep.Composing()
    words = ["base=memit", "null_space=false", f"compare.tuned={tuned}"]
    sweep._multirun(composing, [*words, *sweep.REHEARSAL])
    sweep._multirun(composing, [*words, "model.moment_weight=77", *sweep.REHEARSAL])
    assert [cell.config.model.moment_weight for cell in composing.cells] == [300, 77]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "base=memit"], "tune takes no -m"),
        (["base=memit"], "compare has no use for"),
        (
            ["+compare.tuning.grids={memit:{plain:{model.moment_weight:[1,2]}}}"],
            "2 combinations for plain and 1 for null_space",
        ),
        (
            ["+compare.tuning.grids={memit:{plain:{model.moment_weight:[]}}}"],
            "model.moment_weight has no value",
        ),
        (
            ["+compare.tuning.grids={memit:{plain:{model.momentweight:[1]}}}"],
            "model.moment_weight",
        ),
        (["+compare.tuning.grids={memit:{plane:{}}}"], "plane"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_refused_before_anything_runs(
    words: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_tune([*words, f"compare.tuning.out={tmp_path}"], QUIET)
    assert not list(tmp_path.rglob(METRICS))


def test_without_a_grid_both_sides_get_the_same_number_of_trials() -> None:
    for base in load_config([], ComparisonConfig).compare.bases:
        config = load_config([f"base={base}"], ComparisonConfig)
        grids = grids_of(config)
        (plain,), (projected,) = grids.plain.values(), grids.null_space.values()
        assert len(plain) == len(projected) > 2
        tried = {**grids.plain, **grids.null_space}
        if base == "rome":
            own = {"model.target.clamp_norm_factor": config.model.target.clamp_norm_factor}
        else:
            own = {
                "model.moment_weight": config.model.moment_weight,
                "projector.l2": config.projector.l2,
            }
        assert all(value in tried[key] for key, value in own.items())


def test_a_setting_of_one_base_goes_to_it_and_an_unknown_base_is_named(tmp_path: Path) -> None:
    out = f"compare.tuning.out={tmp_path}"
    with pytest.raises(ConfigError, match="unknown base method 'memti'; did you mean 'memit'"):
        run_tune(["compare.bases=[memti]", out], QUIET)
    with pytest.raises(ConfigError, match=r"none of memit has a setting for 'base.keep_percent=3'"):
        run_tune(["compare.bases=[memit]", "base.keep_percent=3", out], QUIET)
    grid = "+compare.tuning.grids.rect.plain={base.keep_percent:[1,2,3,4,5]}"
    with pytest.raises(ConfigError, match="5 combinations for plain and 1"):
        run_tune(["compare.bases=[memit,rect]", "base.keep_percent=20", grid, out], QUIET)


def test_what_was_not_tuned_is_named(tmp_path: Path) -> None:
    tuned = Tuned({"memit": {"plain": []}}, [prompt_digest("a")])
    with pytest.raises(ConfigError, match=r"alphaedit tune compare.bases=\[memti\]"):
        tuned.overrides("memti", False)
    with pytest.raises(ConfigError, match="null_space"):
        tuned.overrides("memit", True)
    with pytest.raises(ConfigError, match="the folder that alphaedit tune has written"):
        read_tuned(str(tmp_path))
    for text in ("settings: [", "settings: {}\n", yaml.safe_dump({"settings": 1, "asked": []})):
        (tmp_path / "tuned.yaml").write_text(text)
        with pytest.raises(ConfigError, match="not what alphaedit tune writes"):
            read_tuned(str(tmp_path))
