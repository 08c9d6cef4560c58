"""``alphaedit compare -m``: Hydra's own multirun, its launchers, and every experiment."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.groups import CONFIG_MODULE, options
from alphaedit_plugin.config.compose import load_config, register_configs
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.experiments.comparison import run_comparison
from alphaedit_plugin.experiments.sweep import run_sweep

QUICK = [
    "model.target.steps=5", "model.moments.tokens=3000", "compare.retention=10",
    "compare.every=1", "batch_size=4", "compare.edits=8",
]  # fmt: skip
LAUNCHERS = {
    "cores": "joblib", "slurm": "submitit_slurm", "slurm_trial": "submitit_local",
    "ray_cluster": "ray",
}  # fmt: skip


def composed(*overrides: str) -> DictConfig:
    register_configs()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return compose("sweep", list(overrides), return_hydra_config=True)


def cells_of(folder: Path) -> dict[tuple[str, bool], Any]:
    """The cells that were written anywhere below ``folder``, without what differs by run."""
    found = {}
    for path in folder.rglob("metrics.json"):
        for cell in json.loads(path.read_text())["cells"]:
            assert cell.pop("seconds") > 0
            found[cell["base"], cell["null_space"]] = cell
    return found


def test_joblib_runs_the_cells_of_one_process(tmp_path: Path) -> None:
    alone, swept = tmp_path / "alone", tmp_path / "swept"
    run_comparison([*QUICK, "compare.bases=[memit]", f"compare.out={alone}"], Console(quiet=True))
    words = ["-m", "base=memit", "null_space=false,true", *QUICK, f"compare.out={swept}"]
    line = [sys.executable, "-m", "alphaedit_plugin", "compare", *words]
    line += ["hydra/launcher=cores", "hydra.launcher.n_jobs=2"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert cells_of(swept) == cells_of(alone)
    folders = sorted(path.parent.name for path in swept.rglob("metrics.json"))
    assert folders == [f"base=memit,null_space={side}" for side in ("False", "True")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base=memit,rct"], "unknown option for base 'rct'; did you mean 'rect'"),
        (["seed=0,-1"], "seed is -1"),
        (["model.target.lrr=1,2"], r"did you mean 'model\.target\.lr'"),
        (["compare.bases=[memit,rect]"], "write -m base=rome,memit"),
        (["base=memit,rect", "save=edited"], "it keeps no model"),
        (["base=memit", "data=easyedit", "data.path=a.json,b.json"], "no data at a.json"),
        (["seed=1,1"], "sweep no value twice"),
        (["seed=1", "hydra/launcher=core"], "did you mean 'cores'"),
    ],
)
def test_what_cannot_run_is_refused_before_any_cell(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alphaedit_plugin.experiments.sweep.prepare", None)
    typed = list(sys.argv)
    with pytest.raises(ConfigError, match=message):
        run_sweep(["-m", *words, f"compare.out={tmp_path}"], Console(quiet=True))
    assert sys.argv == typed


@pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_ray_launcher") is not None, reason="the launcher is installed"
)
@pytest.mark.parametrize("name", ["ray", "ray_cluster"])
def test_a_launcher_that_is_not_installed_says_how_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alphaedit_plugin.experiments.sweep.prepare", None)
    with pytest.raises(ConfigError, match=r"pip install alphaedit-plugin\[ray\]"):
        run_sweep(
            ["-m", "seed=1", f"hydra/launcher={name}", f"compare.out={tmp_path}"],
            Console(quiet=True),
        )


def test_one_process_says_how_to_sweep() -> None:
    with pytest.raises(ConfigError, match="alphaedit compare -m base=rome,memit"):
        run_comparison(["base=rect"], Console(quiet=True))


@pytest.mark.parametrize("launcher", options("hydra/launcher"))
def test_every_launcher_is_its_plugins_with_settings_of_ours(launcher: str) -> None:
    plugin = LAUNCHERS[launcher]
    if plugin == "ray" and find_spec("hydra_plugins.hydra_ray_launcher") is None:
        pytest.skip("hydra-ray-launcher is not installed")
    ours = composed(f"hydra/launcher={launcher}").hydra.launcher
    theirs = composed(f"hydra/launcher={plugin}").hydra.launcher
    assert ours._target_ == theirs._target_
    assert set(ours) == set(theirs)
    assert ours != theirs


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_value_that_an_experiment_sweeps_composes(experiment: str) -> None:
    config = composed(f"experiment={experiment}", "data.path=somewhere")
    assert config.compare.out == f"runs/{experiment}"
    swept = OmegaConf.to_container(config.hydra.sweeper.params)
    assert isinstance(swept, dict)
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in swept.items()])
    values = [[f"{p.key_or_group}={v}" for v in p.sweep_string_iterator()] for p in parsed]
    assert all(len(choices) > 1 for choices in values)
    first = [choices[0] for choices in values]
    for override in chain.from_iterable(values):
        others = [f for f in first if f.partition("=")[0] != override.partition("=")[0]]
        chosen = [f"experiment={experiment}", "data.path=somewhere", *others, override]
        found = load_config([*chosen])
        assert isinstance(found, EditorConfig)


@pytest.mark.parametrize(
    ("model", "name"), [("gpt2-xl", "gpt2-xl"), ("gpt-j", "gpt-j"), ("llama3", "llama-3")]
)
def test_the_papers_table(model: str, name: str) -> None:
    config = load_config([f"experiment=paper_table1_{model}", "data.path=somewhere"])
    assert (config.compare.edits, config.batch_size) == (2000, 100)
    assert config.projector.cut.value == 2e-2
    assert name in str(config.model.path).lower()
