"""One cell on the pocket model: what it measures, and that it goes on to the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.build import cpu_threads
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.experiments import cell as cell_module
from alphaedit_plugin.experiments import cell_setup
from alphaedit_plugin.experiments.cell import run_cell
from alphaedit_plugin.experiments.cell_setup import CellSetup, is_small, set_up
from alphaedit_plugin.experiments.results import METRICS, TEXTS, read_cell
from alphaedit_plugin.experiments.resuming import (
    JOURNAL,
    STATE,
    CellState,
    edits_made,
    identity_of,
    read_state,
    write_state,
)
from alphaedit_plugin.metrics.asking import Protocol
from alphaedit_plugin.nullspace.projector_file import save_projectors
from tests.saved import overrides_of

QUICK = [
    "model.target.steps=5", "model.moments.tokens=3000", "compare.retention=10",
    "compare.every=2", "batch_size=4", "compare.edits=18",
]  # fmt: skip


class Ended(Exception):
    """What ends a run here, where a process would be killed."""


def config_of(*more: str) -> ComparisonConfig:
    return load_config([*QUICK, *more], ComparisonConfig)


def measured(folder: Path) -> dict[str, Any]:
    """What a cell wrote, without what differs from run to run."""
    document: dict[str, Any] = json.loads((folder / METRICS).read_text())
    assert document.pop("seconds") > 0
    return document


def test_a_cell_says_what_it_found(tmp_path: Path) -> None:
    for null_space in ("false", "true"):
        folder = tmp_path / null_space
        chosen = ["base=prune", f"null_space={null_space}", "model.moments.tokens=null"]
        run_cell(config_of(*chosen), folder, "typed")
        cell = read_cell(folder)
        assert (cell.base, cell.null_space, cell.command) == (
            "prune",
            null_space == "true",
            "typed",
        )
        assert [point.edits for point in cell.points] == [8, 16, 18]
        assert cell.final.efficacy.success > 0.5
        (layer,) = cell.layers.values()
        assert layer.relative_norm == max(cell.points[-1].norms.values()) > 0
        assert layer.leakage < 1e-6 if cell.null_space else layer.leakage > 1e-5
        assert sorted(path.name for path in folder.iterdir()) == [METRICS]


# 4 and 12 edits come before an evaluation, which PRUNE's end of a run is only tried for; 8 after.
@pytest.mark.parametrize(
    ("base", "null_space", "edits"),
    [("memit", True, 4), ("prune", False, 12), ("rect", False, 8), ("rome", True, 12)],
)
def test_an_ended_cell_goes_on_to_the_same_bits(
    base: str,
    null_space: bool,
    edits: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of(f"base={base}", f"null_space={null_space}")
    run_cell(config, tmp_path / "whole")

    def ending(state: CellState, folder: Path, identity: str) -> None:
        write_state(state, folder, identity)
        if state.edits == edits:
            raise Ended

    ended = tmp_path / "ended"
    monkeypatch.setattr(cell_module, "write_state", ending)
    with pytest.raises(Ended):
        run_cell(config, ended)
    monkeypatch.undo()
    assert edits_made(ended) == edits
    assert (ended / JOURNAL).is_dir()
    run_cell(config, ended)
    assert f"goes on after {edits} edits" in caplog.text
    assert measured(ended) == measured(tmp_path / "whole")
    assert [path.name for path in ended.iterdir()] == [METRICS]
    monkeypatch.setattr(cell_module, "CellRun", None)  # a cell that is done is not run again
    run_cell(config, ended)


def test_a_damaged_journal_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of("base=memit", "compare.edits=8")
    monkeypatch.setattr(cell_module, "finalize", None)
    with pytest.raises(TypeError):
        run_cell(config, tmp_path)
    monkeypatch.undo()
    (tmp_path / JOURNAL / "00000001.safetensors").write_text("half a fi")
    run_cell(config, tmp_path)
    assert "beginning again" in caplog.text
    assert len(read_cell(tmp_path).final.readings["efficacy.success"].totals) == 8


@pytest.fixture(scope="module")
def prepared() -> CellSetup:
    with cpu_threads(1):
        return set_up(config_of("base=memit"))


def identity(prepared: CellSetup, *more: str, data: object = None) -> str:
    config = config_of("base=memit", *more)
    return identity_of(
        prepared.lm, config, prepared.recipe, prepared.projectors, data or prepared.data
    )


@pytest.mark.parametrize(
    "change", ["seed=1", "batch_size=6", "model.target.lr=0.2", "projector.l2=3", "compare.every=1"]
)
def test_what_another_cell_left_is_not_used(
    prepared: CellSetup, change: str, tmp_path: Path
) -> None:
    state = CellState(edits=3)
    write_state(state, tmp_path, identity(prepared))
    assert (
        read_state(tmp_path, identity(prepared, "compare.out=elsewhere", "compare.jobs=3")) == state
    )
    assert read_state(tmp_path, identity(prepared, change)) is None
    assert read_state(tmp_path, identity(prepared, data=prepared.data.requests[:-1])) is None


def test_a_damaged_state_is_begun_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / STATE).write_text("half a fi")
    assert read_state(tmp_path, "mine") is None
    assert "beginning again" in caplog.text
    assert edits_made(tmp_path) == 0


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_state(CellState(), tmp_path / "file", "mine")


@pytest.mark.parametrize("cached", ["true", "false"])
def test_moments_are_read_once(monkeypatch: pytest.MonkeyPatch, cached: str) -> None:
    read: list[object] = []
    real = cell_setup.load_moments

    def counting(lm: Any, config: Any) -> Any:
        read.append(config)
        return real(lm, config)

    monkeypatch.setattr(cell_setup, "load_moments", counting)
    cut = "projector.cut.value=0.6"
    set_up(config_of("base=memit", "null_space=false", cut, f"model.moments.cache={cached}"))
    assert len(read) == 1


def test_given_projectors_are_used(prepared: CellSetup, tmp_path: Path) -> None:
    save_projectors(prepared.lm, prepared.projectors, tmp_path / "p.safetensors")
    given = f"projector.path={tmp_path / 'p.safetensors'}"
    projected = set_up(config_of("base=rect", given, "compare.share_targets=false"))
    assert torch.equal(projected.projectors[0].basis, prepared.projectors[0].basis)
    assert not projected.recipe.moments


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("base=rome null_space=false", {"use_moment"}),
        ("base=rome", {"use_moment", "cut", "mode"}),
        ("base=rect null_space=false", {"moment_weight", "sequential_cache", "keep_percent"}),
        ("base=rect", {"keep_percent", "cut", "mode", "l2"}),
        (
            "base=rect projector.mode=post model.dtype=bfloat16",
            {"moment_weight", "sequential_cache", "keep_percent", "cut", "mode", "dtype"},
        ),
    ],
)
def test_settings_are_those_that_a_cell_reads(words: str, read: set[str]) -> None:
    settings = set_up(config_of(*words.split())).settings
    assert set(settings) == read | {"layers", "batch_size"}


def test_what_is_small(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_config(overrides_of(saved)).model
    assert is_small(model)
    assert is_small(config_of().model)
    assert not is_small(config_of("model.device=cuda").model)
    monkeypatch.setattr(cell_setup, "SMALL_MODEL", 10)
    assert not is_small(model)
    model.path = "somebody/on-the-hub"
    assert not is_small(model)


def test_texts_are_generated_where_they_are_asked_for(tmp_path: Path) -> None:
    """By the node or by a metric's name; otherwise nothing changes, identity included."""
    few = ["compare.edits=4", "compare.every=0", "compare.metrics=[retention]"]
    run_cell(config_of(*few), tmp_path / "off")
    assert not (tmp_path / "off" / TEXTS).exists()
    run_cell(config_of(*few, "compare.generate.protocols=[bare]"), tmp_path / "on")
    off, cell = read_cell(tmp_path / "off"), read_cell(tmp_path / "on")
    added = set(cell.final.readings) - set(off.final.readings)
    assert {name.split(".")[0] for name in added} == {"generated", "repetition", "unfinished"}
    assert {name.split(".")[1] for name in added} == {"bare"}
    assert {name: cell.final.readings[name] for name in off.final.readings} == off.final.readings
    edits = [text for text in cell.texts if text.kind == "efficacy"]
    assert len(edits) == 4
    exact = sum(text.verdicts["exact"] for text in edits) / 4
    assert exact == cell.final.summary["generated.bare.efficacy.exact"] > 0.5  # the pocket's learn
    assert cell.before.summary["generated.bare.efficacy.exact"] == 0
    assert any(text.before != text.after for text in edits)

    config = config_of(*few)
    setup = set_up(config)
    again = [setup.lm, config, setup.recipe, setup.projectors, setup.data]
    assert identity_of(*again) == off.identity != cell.identity
    again[1] = config_of(*few, "compare.generate.limit=5")
    assert identity_of(*again) == off.identity
    assert config_of("compare.metrics=[generated]").compare.generation.protocols == list(Protocol)


def test_the_unedited_model_is_evaluated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side of a comparison finds what the first has measured, and so does a later run."""
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    few = ["compare.edits=4", "compare.every=0"]
    run_cell(config_of(*few, "null_space=true"), tmp_path / "first")
    evaluations, evaluate = [], cell_module.evaluate

    def counted(lm: Any, requests: Any, *args: Any, **kwargs: Any) -> Any:
        evaluations.append(kwargs["before"])
        return evaluate(lm, requests, *args, **kwargs)

    monkeypatch.setattr(cell_module, "evaluate", counted)
    for name in ("first", "second"):
        run_cell(config_of(*few, "null_space=true", "compare.resume=false"), tmp_path / name)
    assert None not in evaluations
    assert measured(tmp_path / "second") == measured(tmp_path / "first")
    run_cell(config_of("compare.edits=3", "compare.every=0"), tmp_path / "others")
    assert evaluations[2] is None
