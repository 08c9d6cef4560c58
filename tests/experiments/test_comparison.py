"""A small comparison, run for real on the pocket model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.experiments import jobs, study
from alphaedit_plugin.experiments.cell import run_cell
from alphaedit_plugin.experiments.comparison import Cell, run_comparison
from alphaedit_plugin.experiments.grid import grid
from alphaedit_plugin.experiments.jobs import Shared, settings_of
from alphaedit_plugin.nullspace.projector_file import save_projectors

QUICK = ["model.target.steps=8", "compare.retention=20", "compare.every=1", "batch_size=4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "new" / "report"


@pytest.fixture(scope="module")
def cells(folder: Path) -> list[Cell]:
    return run_comparison([*QUICK, "compare.edits=8", f"compare.out={folder}"], Console(quiet=True))


def test_every_base_runs_plain_and_projected(cells: list[Cell]) -> None:
    names = [(cell.base, cell.null_space) for cell in cells]
    assert names == [(b, n) for b in ("rome", "memit", "prune", "rect") for n in (False, True)]


def test_projected_deltas_are_invisible_to_old_keys(cells: list[Cell]) -> None:
    for cell in cells:
        for report in cell.layers.values():
            if cell.null_space:
                assert report.leakage < 1e-6
            else:
                assert report.leakage > 1e-5
            assert report.relative_norm > 0


def test_cells_are_evaluated_on_the_way_and_at_the_end(cells: list[Cell]) -> None:
    for cell in cells:
        assert [point.edits for point in cell.points] == [4, 8]
        assert cell.final.efficacy.success > 0.5


def test_the_report_holds_what_was_measured(cells: list[Cell], folder: Path) -> None:
    document = json.loads((folder / "metrics.json").read_text())
    for cell, entry in zip(cells, document["cells"], strict=True):
        assert entry["base"] == cell.base
        assert entry["final"]["score"] == pytest.approx(cell.final.score)
        assert entry["final"]["efficacy.success"] == cell.final.efficacy.success
        assert len(entry["points"]) == len(cell.points)
    page = (folder / "report.md").read_text()
    for cell in cells:
        assert f"{cell.final.score:.3f}" in page
    assert "![" in page
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_gains_are_of_the_projected_over_the_plain(cells: list[Cell], folder: Path) -> None:
    page = (folder / "report.md").read_text()
    for plain, projected in zip(cells[::2], cells[1::2], strict=True):
        gain = projected.final.score - plain.final.score
        line = next(
            row
            for row in page.splitlines()
            if row.startswith(f"| {plain.base.upper()} | null space")
        )
        assert f" {gain:+.3f} " in line
        verdict = "gains" if gain > 0 else "does not gain"
        assert f"{plain.base.upper()}: the null space {verdict} (" in page


def test_a_cell_leaves_the_model_as_it_was() -> None:
    config = grid([*QUICK, "compare.bases=[prune]", "compare.edits=6"])[1]
    lm = load_model(config.model)
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    job = Shared(lm).job_of(config)
    seen: list[int] = []
    first = run_cell(job, lm, load_data(config), seen.append)
    again = run_cell(job, lm, load_data(config), seen.append)
    assert seen == [4, 2, 4, 2]
    assert first.points == again.points
    for name, parameter in lm.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_overrides_of_a_base_go_where_they_fit() -> None:
    rect = [c for c in grid(["base.keep_percent=20"]) if c.base["name"] == "rect"]
    assert [c.base["keep_percent"] for c in rect] == [20, 20]
    cached = {
        c.base["name"]: c.base.get("sequential_cache") for c in grid(["base.sequential_cache=true"])
    }
    assert cached == {"rome": None, "memit": True, "prune": True, "rect": True}
    with pytest.raises(ConfigError, match="keep_persent"):
        grid(["base.keep_persent=20"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compare.bases=[memti]", "memit"),
        ("compare.bases=[]", "at least one"),
        ("compare.edits=0", "compare.edits"),
        ("compare.bases=[memit,rome,memit]", "without repetitions"),
        ("base=rect", r"those of compare\.bases="),
        ("null_space=true", "both with and without"),
        ("+null_space=maybe", "both with and without"),
        ("host=easyedit", "host=native only"),
        ("save=edited", "compare.out"),
        ("request.prompt=The {} is", "data="),
        ("base.name=rect", "none of rome, memit, prune, rect has a setting"),
        ("compare.jobs=0", "compare.jobs"),
        ("model=gpt2-xl", "no requests for openai-community/gpt2-xl"),
        ("projector.path=none.safetensors", "no projector file at none.safetensors"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(override: str, message: str) -> None:
    with pytest.raises(AlphaEditError, match=message):
        run_comparison([override], Console(quiet=True))


@pytest.mark.parametrize("cached", ["true", "false"])
def test_both_sides_share_what_costs_time(monkeypatch: pytest.MonkeyPatch, cached: str) -> None:
    read: list[int] = []
    real = jobs.load_moments

    def counting(lm: object, config: object, layers: list[int]) -> object:
        read.extend(layers)
        return real(lm, config, layers)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "load_moments", counting)
    configs = grid([*QUICK, "compare.bases=[memit,rect]", f"model.moments.cache={cached}"])
    shared = Shared(load_model(configs[0].model))
    made = [shared.job_of(config) for config in configs]
    assert read == [0]
    assert all(job.projectors[0] is made[0].projectors[0] for job in made)


def test_given_projectors_are_used(tmp_path: Path) -> None:
    (_, config) = grid([*QUICK, "compare.bases=[rect]", "projector.cut.value=0.5"])
    fitting = Shared(load_model(config.model))
    fitted = fitting.projectors_of(config)
    save_projectors(fitting.lm, fitted, tmp_path / "p.safetensors")
    given = f"projector.path={tmp_path / 'p.safetensors'}"
    shared = Shared(fitting.lm)
    plain, projected = map(shared.job_of, grid([*QUICK, "compare.bases=[memit]", given]))
    for job in (plain, projected):
        assert torch.equal(job.projectors[0].basis, fitted[0].basis)
    assert plain.recipe.moments
    assert not projected.recipe.moments
    assert settings_of(projected)["cut"] == "energy 0.5"


def test_settings_are_those_that_a_cell_reads() -> None:
    asked = ["model.moments.tokens=3000", "compare.bases=[rome,rect]"]
    more = ["projector.mode=post", "compare.bases=[rect]"]
    configs = grid(asked) + grid([asked[0], *more])
    shared = Shared(load_model(configs[0].model))
    read = [
        set(settings_of(shared.job_of(config))) - {"layers", "batch_size"} for config in configs
    ]
    rect = {"moment_weight", "sequential_cache", "keep_percent"}
    assert read == [
        {"use_moment", "tuned"},
        {"use_moment", "tuned", "cut", "mode"},
        rect,
        {"keep_percent", "cut", "mode", "l2"},
        rect,
        rect | {"cut", "mode"},
    ]


def test_half_precision_says_what_its_rounding_is(tmp_path: Path) -> None:
    asked = [*QUICK, "compare.bases=[memit]", "compare.edits=4", "model.dtype=bfloat16"]
    _, cell = run_comparison(
        [*asked, f"compare.out={tmp_path}", "compare.jobs=1"], Console(quiet=True)
    )
    (layer,) = cell.layers.values()
    assert layer.unrounded_leakage < 1e-6 < 1e-4 < layer.leakage
    note = f"the rounding of bfloat16 weights; before it, at most {layer.unrounded_leakage:.1e}"
    assert note in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("name", ["report.md", "metrics.json", "comparison.png"])
def test_a_folder_in_the_place_of_a_report_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(study, "load_model", None)  # nothing may be loaded
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} in it is a folder"):
        run_comparison([f"compare.out={tmp_path}"], Console(quiet=True))
