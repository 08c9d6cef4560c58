"""``alphaedit compare``: Hydra's multirun, with and without ``-m``, and every experiment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import joblib
import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, NumericalError
from alphaedit_plugin.common.groups import CONFIG_MODULE, options
from alphaedit_plugin.config.compose import load_config, register_configs
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.experiments import cell, sweep
from alphaedit_plugin.experiments.rehearsal import jobs_of
from alphaedit_plugin.experiments.results import METRICS, read_cell
from alphaedit_plugin.experiments.sweep import Composing, grid, run_compare
from tests.killed import killed_at

QUICK = [
    "model.target.steps=5", "model.moments.tokens=3000", "compare.retention=10",
    "compare.every=1", "batch_size=4", "compare.edits=8",
]  # fmt: skip
LAUNCHERS = {
    "cores": "joblib", "slurm": "submitit_slurm", "slurm_trial": "submitit_local",
    "ray_cluster": "ray",
}  # fmt: skip
QUIET = Console(quiet=True)


def command(*words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "alphaedit_plugin", "compare", *words]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=400, check=False, **settings
    )


def cells_of(folder: Path) -> dict[str, Any]:
    """The cells that were written below ``folder``, without what differs from run to run."""
    cells = {}
    for path in sorted(folder.rglob(METRICS)):
        document = json.loads(path.read_text())
        assert document.pop("seconds") > 0
        del document["command"]
        cells[f"{document['base']} {document['null_space']}"] = document
    return cells


def test_side_by_side_as_swept_one_by_one(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    sides = ["-m", "base=rect", "null_space=true,false", "compare.jobs=1"]
    with (tmp_path / "shown").open("w") as shown:
        folders = run_compare(
            [*QUICK, *sides, f"compare.out={alone}"], Console(file=shown, width=300)
        )
    assert [folder.name for folder in folders] == [
        "base=rect,null_space=True",
        "base=rect,null_space=False",
    ]
    said = (tmp_path / "shown").read_text()
    assert said == f"2 cells in {alone}: alphaedit report {alone}\n"
    words = [*QUICK, "compare.bases=[rect]", "compare.jobs=2", f"compare.out={together}"]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert cells_of(alone) == cells_of(together)
    assert done.stdout.lstrip().startswith("After 8 sequential edits")
    page = (together / "report.md").read_text()
    for folder in folders:
        score = f"{read_cell(folder).final.score:.3f}"
        assert score in done.stdout
        assert score in page
    assert f"    alphaedit compare {' '.join(words)}" in page


def test_half_precision_says_what_its_rounding_is(tmp_path: Path) -> None:
    words = ["compare.bases=[memit]", "model.dtype=bfloat16", "compare.jobs=1"]
    _, folder = run_compare([*QUICK, *words, f"compare.out={tmp_path}"], QUIET)
    (layer,) = read_cell(folder).layers.values()
    assert layer.unrounded_leakage < 1e-6 < 1e-4 < layer.leakage
    note = f"the rounding of bfloat16 weights; before it, at most {layer.unrounded_leakage:.1e}"
    assert note in (tmp_path / "report.md").read_text()


def test_overrides_of_a_base_go_where_they_fit() -> None:
    def overrides(*words: str) -> list[tuple[str, list[str]]]:
        runs = [[word for word in run if word.startswith("base")] for run in grid(words)]
        return [(run[-1], run[:-1]) for run in runs]

    assert overrides() == [("base=rome,memit,prune,rect", [])]
    assert overrides("base.keep_percent=20") == [
        ("base=rome,memit,prune", []), ("base=rect", ["base.keep_percent=20"]),
    ]  # fmt: skip
    assert overrides("base.alpha=2", "base.sequential_cache=true") == [
        ("base=rome", []),
        ("base=memit,rect", ["base.sequential_cache=true"]),
        ("base=prune", ["base.alpha=2", "base.sequential_cache=true"]),
    ]
    with pytest.raises(ConfigError, match="keep_persent"):
        grid(["base.keep_persent=20"])


def test_an_experiment_without_m_is_not_swept() -> None:
    composing = Composing()
    for words in grid(["experiment=threshold_sweep", "compare.bases=[memit]"]):
        sweep._multirun(composing, [*words, *sweep.REHEARSAL])
    configs = [cell.config for cell in composing.cells]
    sides = [(config.null_space, config.projector.cut.value) for config in configs]
    assert sides == [(False, 0.99), (True, 0.99)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare.bases=[memti]", "memit"),
        ("compare.bases=[]", "at least one"),
        ("compare.edits=0", "compare.edits"),
        ("compare.bases=[memit,rome,memit]", "without repetitions"),
        ("base=rect", r"every base of compare\.bases=.*alphaedit compare -m base=rome,memit"),
        ("+null_space=maybe", "with and without"),
        ("host=easyedit", "unknown key 'host'"),
        ("base.name=rect", "unknown key 'base.name'"),
        ("compare.jobs=0", "compare.jobs"),
        ("model=gpt2-xl", "no requests for openai-community/gpt2-xl"),
        ("-m base=memit,rct", "unknown option for base 'rct'; did you mean 'rect'"),
        ("-m seed=0,-1", "seed is -1"),
        ("-m model.target.lrr=1,2", r"did you mean 'model\.target\.lr'"),
        ("-m compare.bases=[memit,rect]", "write -m base=rome,memit"),
        ("-m base=memit,rect save=edited", "unknown key 'save'"),
        ("-m base=memit data=easyedit data.path=a.json,b.json", "no data at a.json"),
        ("-m seed=1,1", "sweep no value twice"),
        ("-m seed=1 hydra/launcher=core", "hydra/launcher/core"),
    ],
)
def test_what_cannot_run_is_refused_before_any_cell(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cell, "run_cell", None)
    typed = list(sys.argv)
    with pytest.raises(AlphaEditError, match=message):
        run_compare([*words.split(), f"compare.out={tmp_path}"], QUIET)
    assert sys.argv == typed
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["report.md", "report.html", "base=rome,null_space=False/metrics.json"]
)
def test_a_folder_where_a_file_goes_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(cell, "run_cell", None)
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match="is a folder"):
        run_compare([f"compare.out={tmp_path}"], QUIET)


@pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_ray_launcher") is not None, reason="the launcher is installed"
)
@pytest.mark.parametrize("name", ["ray", "ray_cluster"])
def test_a_launcher_that_is_not_installed_says_how_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell, "run_cell", None)
    words = ["-m", "seed=1", f"hydra/launcher={name}", f"compare.out={tmp_path}"]
    with pytest.raises(ConfigError, match=r"pip install alphaedit-plugin\[ray\]"):
        run_compare(words, QUIET)


def test_how_many_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)

    def jobs(cells: int, *words: str) -> int:
        return jobs_of([load_config(list(words), ComparisonConfig)] * cells)

    assert jobs(8) == 3
    assert jobs(2) == 2
    assert jobs(8, "compare.jobs=5") == 5
    assert jobs(8, "model.device=cuda") == 1
    assert jobs(8, "model.path=somebody/large") == 1
    assert jobs(8, "model.path=somebody/large", "compare.jobs=2") == 2
    with pytest.raises(ConfigError, match=r"compare\.jobs=5 is for the CPU"):
        jobs(8, "model.device=cuda", "compare.jobs=5")


def test_the_error_of_a_cell_is_its_own_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def failing(config: Any, folder: Path, command: str) -> None:
        ran.append(folder.name)
        if config.base["name"] == "memit":
            raise NumericalError("left the finite numbers")

    monkeypatch.setattr(cell, "run_cell", failing)
    words = ["compare.bases=[memit,rect]", "compare.jobs=1", f"compare.out={tmp_path}"]
    with pytest.raises(NumericalError, match=r"^left the finite numbers$"):
        run_compare([*QUICK, *words], QUIET)
    assert len(ran) == 4


def test_killed_for_real(tmp_path: Path) -> None:
    """SIGKILL in the middle of a process, then the same command."""
    words = [*QUICK, "compare.bases=[memit]", "compare.edits=30", "compare.jobs=1"]
    run_compare([*words, f"compare.out={tmp_path / 'whole'}"], QUIET)
    words.append(f"compare.out={tmp_path / 'killed'}")
    second = tmp_path / "killed" / "base=memit,null_space=True"
    killed_at("os.rename", f"{second}/state.json.*", ["compare", *words], tmp_path / "cache", nth=5)
    assert not (second / METRICS).exists()
    done = command(*words)
    assert "MEMIT + null space goes on after" in done.stderr
    assert cells_of(tmp_path / "killed") == cells_of(tmp_path / "whole")
    done = command(*words)
    assert done.returncode == 0
    assert "edits" not in (second / "alphaedit.log").read_text().splitlines()[-1]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process(tmp_path: Path, by: signal.Signals) -> None:
    """Ctrl-C reaches all that a terminal runs; ``kill`` the first process alone."""
    words = [*QUICK, "compare.edits=200", "compare.jobs=2", f"compare.out={tmp_path}"]
    running = subprocess.Popen(
        [sys.executable, "-m", "alphaedit_plugin", "compare", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heeds_ctrl_c,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/alphaedit.log")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [process for process in family(running.pid) if heeds(process)] == [running.pid]
    if by is signal.SIGINT:
        os.killpg(running.pid, by)
    else:
        running.terminate()
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert errors.rstrip().endswith("alphaedit: interrupted")
    assert "Traceback" not in errors
    while family(running.pid) and time.monotonic() < deadline + 60:
        time.sleep(0.2)
    assert not family(running.pid)


def heeds(process: int) -> bool:
    """Whether Ctrl-C reaches a process that is not starting up: Linux's mask of ignored signals."""
    status = Path(f"/proc/{process}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    return not ignored >> (signal.SIGINT - 1) & 1


def heeds_ctrl_c() -> None:
    """A shell that starts the tests in the background has them ignore it, and their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def family(group: int) -> list[int]:
    """The processes of a process group that are alive."""
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            alive.append(int(folder.name))
    return alive


def composed(*overrides: str) -> DictConfig:
    register_configs(ComparisonConfig)
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return compose("sweep", list(overrides), return_hydra_config=True)


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
    config = composed(f"experiment={experiment}")
    assert config.compare.out == f"runs/{experiment}"
    swept = OmegaConf.to_container(config.hydra.sweeper.params)
    assert isinstance(swept, dict)
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in swept.items()])
    values = [[f"{p.key_or_group}={v}" for v in p.sweep_string_iterator()] for p in parsed]
    assert all(len(choices) > 1 for choices in values)
    first = [choices[0] for choices in values]
    for override in chain.from_iterable(values):
        others = [f for f in first if f.partition("=")[0] != override.partition("=")[0]]
        load_config([f"experiment={experiment}", *others, override], ComparisonConfig)


@pytest.mark.parametrize(
    ("model", "name"), [("gpt2-xl", "gpt2-xl"), ("gpt-j", "gpt-j"), ("llama3", "llama-3")]
)
def test_the_papers_table(model: str, name: str) -> None:
    config = load_config([f"experiment=paper_table1_{model}"], ComparisonConfig)
    assert (config.compare.edits, config.batch_size) == (2000, 100)
    assert config.projector.cut.value == 2e-2
    assert name in str(config.model.path).lower()
