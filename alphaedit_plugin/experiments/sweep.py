"""``alphaedit compare``: cells, run by Hydra's multirun and any of its launchers.

Without ``-m`` the cells are every base of ``compare.bases``, plain and projected, and a report of
them follows; with ``-m`` they are whatever is swept.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread
from types import MappingProxyType

import hydra
import joblib
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import AlphaEditError, ConfigError
from alphaedit_plugin.common.groups import CONFIG_MODULE
from alphaedit_plugin.common.outputs import writable_folder
from alphaedit_plugin.config.build import check_sources
from alphaedit_plugin.config.compose import load_config, register_configs
from alphaedit_plugin.config.explain import explain
from alphaedit_plugin.config.overrides import bases_with, key_of
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.experiments.cell import run_cell
from alphaedit_plugin.experiments.report import report_folder, run_report
from alphaedit_plugin.experiments.results import METRICS
from alphaedit_plugin.experiments.setup import abilities_of, data_of, is_small, most_edits, on_cpu
from alphaedit_plugin.experiments.watching import progress_of

logger = logging.getLogger(__name__)

FLAGS = ("-m", "--multirun")
NAMED = ("base", "null_space", "model", "data", "seed")  # in a folder's name though not swept
LAUNCHER = ("hydra/launcher", "hydra.launcher")
# Launchers that come with a package of their own, and our extra that brings it.
PLUGINS: Mapping[str, str] = MappingProxyType(
    {"submitit_local": "sweep", "submitit_slurm": "sweep", "ray": "ray"}
)
# The rehearsal takes seconds, in this process, and leaves nothing but empty folders.
REHEARSAL = ("hydra/launcher=basic", "hydra/job_logging=none", "hydra.output_subdir=null")
# What other commands take, and what to use here instead.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "base": "it runs those of compare.bases=[rome,memit]",
        "null_space": "it runs every base both with and without: compare.bases says which",
        "host": "it runs host=native only: use alphaedit edit for other hosts",
        "save": "it keeps no model: compare.out says where the report goes",
        "request": "it edits many requests: those of data=…",
    }
)
SWEPT = ("base", "null_space")  # refused without -m only


def run_compare(words: Sequence[str], console: Console) -> list[Path]:
    """Run every cell in a folder of its own; without ``-m`` also report on them.

    All cells are composed and checked first, so that a typing error does not show after hours.
    Cells that an earlier run finished are not run again; one that was killed goes on.

    Args:
        words: as on the command line.
        console: where the table, and what to do next, is printed.

    Returns:
        The cells' folders.

    Raises:
        AlphaEditError: a setting that does not fit, before anything runs; or what a cell raised,
            after the others have run.
    """
    overrides = [word for word in words if word not in FLAGS]
    sweeping = len(overrides) < len(words)
    refuse_useless(overrides, sweeping)
    multiruns = [overrides] if sweeping else grid(overrides)
    rehearsal = Rehearsal()
    for one in multiruns:
        _multirun(rehearsal, [*_without_launcher(one), *REHEARSAL])
    if rehearsal.errors:
        raise rehearsal.errors[0]
    if any(key_of(override).startswith(LAUNCHER) for override in overrides):
        launcher, jobs = list[str](), 1
    else:
        launcher, jobs = rehearsal.launcher()
    folders = list(rehearsal.edits)
    task = CellTask(" ".join(["alphaedit compare", *words]))
    if jobs > 1:
        _start_workers(jobs)
    title = f"{len(folders)} cells" + (f", {jobs} at once" if jobs > 1 else "")
    with progress_of(rehearsal.edits, title):
        for one in multiruns:
            _multirun(task, [*one, *launcher])
    if sweeping:
        out = os.path.commonpath(folders)
        say(console, f"{len(folders)} cells in {out}: alphaedit report {out}")
    else:
        run_report(folders, str(folders[0].parent), console, show=True)
    return folders


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """Multiruns of every base of ``compare.bases``, plain and projected.

    An override ``base.x=…`` goes to those bases that have a field ``x``; bases that take the same
    overrides are one multirun.

    Raises:
        ConfigError: no base, an override that no base takes, or one that does not compose.
    """
    of_bases = [o for o in overrides if key_of(o).startswith("base.")]
    common = [o for o in overrides if o not in of_bases]
    compare = load_config(common).compare
    if not compare.bases:
        raise ConfigError("compare.bases is empty: name at least one base method")
    folder = report_folder("compare.out", compare.out)
    takers = {override: bases_with(key_of(override).removeprefix("base.")) for override in of_bases}
    for override, takes in takers.items():
        if not set(takes) & set(compare.bases):
            raise ConfigError(f"none of {', '.join(compare.bases)} has a setting for {override!r}")
    alike: dict[tuple[str, ...], list[str]] = {}
    for base in compare.bases:
        alike.setdefault(tuple(o for o in of_bases if base in takers[o]), []).append(base)
    fixed = ["hydra.sweeper.params=null", f"hydra.sweep.dir='{folder}'"]  # not an experiment's
    return [
        [*common, *taken, f"base={','.join(bases)}", "null_space=false,true", *fixed]
        for taken, bases in alike.items()
    ]


def refuse_useless(overrides: Sequence[str], sweeping: bool) -> None:
    """Refuse overrides that a comparison has no use for.

    Raises:
        ConfigError: there is one; the message says what to use instead.
    """
    for override in overrides:
        name = key_of(override)
        key = name.split(".")[0]
        if sweeping and name == "compare.bases":
            raise ConfigError(f"a sweep has no use for {override!r}: write -m base=rome,memit")
        if name.startswith("base.") or override == "host=native" or (sweeping and key in SWEPT):
            continue
        if key in REFUSED:
            hint = "; or sweep: alphaedit compare -m base=rome,memit" if key in SWEPT else ""
            raise ConfigError(f"compare has no use for {override!r}: {REFUSED[key]}{hint}")


@dataclass(frozen=True)
class CellTask:
    """What any launcher calls for a cell, here or on another machine.

    Attributes:
        command: as typed, for the report.
    """

    command: str

    def __call__(self, _: DictConfig) -> None:
        """Run it."""
        disable_progress_bar()  # of loading a model; also where the cell has its own process
        config, folder = _this_job()
        try:
            run_cell(config, folder, self.command)
        except Exception as error:
            # Hydra keeps the error until all cells have run, and with its frames the model.
            traceback.clear_frames(error.__traceback__)
            raise


@dataclass
class Rehearsal:
    """A task that looks at each cell before the first one runs.

    Attributes:
        edits: how many each cell will make, by its folder.
        configs: theirs.
        errors: what cannot run.
    """

    edits: dict[Path, int] = field(default_factory=dict)
    configs: list[EditorConfig] = field(default_factory=list)
    errors: list[AlphaEditError] = field(default_factory=list)
    _requests: dict[str, int] = field(default_factory=dict)

    def __call__(self, _: DictConfig) -> None:
        """Look at one cell."""
        try:
            self._check(*_this_job())
        except AlphaEditError as error:  # which Hydra would report in lines of its own
            self.errors.append(error)

    def _check(self, config: EditorConfig, folder: Path) -> None:
        if (writable_folder("compare.out", str(folder)) / METRICS).is_dir():
            raise ConfigError(f"{folder / METRICS} is a folder: remove it")
        if folder in self.edits:
            raise ConfigError(f"two cells would be written to {folder}: sweep no value twice")
        source = repr((config.data, config.model.path, config.seed))
        if source not in self._requests:
            self._requests[source] = len(data_of(config).requests)
        check_sources(config)
        abilities_of(config.compare).check()
        self.edits[folder] = min(most_edits(config), self._requests[source])
        self.configs.append(config)

    def launcher(self) -> tuple[list[str], int]:
        """Overrides that choose a launcher, and how many cells it runs at once.

        Small models run one cell per core; a larger one keeps the machine busy by itself.

        Raises:
            ConfigError: several at once are asked for on an accelerator.
        """
        models, asked = [config.model for config in self.configs], self.configs[0].compare.jobs
        if asked is not None and asked > 1 and not all(map(on_cpu, models)):
            raise ConfigError(f"compare.jobs={asked} is for the CPU: remove it on an accelerator")
        most = joblib.cpu_count() if all(map(is_small, models)) else 1
        jobs = min(len(self.edits), asked or most)
        chosen = ["hydra/launcher=cores", f"hydra.launcher.n_jobs={jobs}"] if jobs > 1 else []
        return chosen, jobs


def _this_job() -> tuple[EditorConfig, Path]:
    """The configuration and the folder of the cell that Hydra runs now."""
    job = HydraConfig.get()
    return load_config(list(job.overrides.task)), Path(job.runtime.output_dir)


def _start_workers(jobs: int) -> None:
    """Start the processes that joblib will use, so that they leave Ctrl-C to this one."""
    if current_thread() is not main_thread():
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        joblib.Parallel(jobs, backend="loky")(joblib.delayed(os.getpid)() for _ in range(jobs))
    finally:
        signal.signal(signal.SIGINT, before)


def _short_names(overrides: Sequence[str]) -> str:
    """An override: folders are named after what is swept, and little of what is the same in all."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(explain(error)) from None
    fixed = [one.key_or_group for one in parsed if not one.is_sweep_override()]
    left_out = ["experiment", *(name for name in fixed if name not in NAMED)]
    names = ",".join(f"'{name}'" for name in left_out)
    return f"hydra.job.config.override_dirname.exclude_keys=[{names}]"


def _without_launcher(overrides: Sequence[str]) -> list[str]:
    return [o for o in overrides if not key_of(o).startswith(LAUNCHER)]


def _multirun(task: Callable[[DictConfig], None], overrides: Sequence[str]) -> None:
    """Let Hydra's own application run ``task`` for each cell.

    Raises:
        ConfigError: what does not compose, or a launcher that is not installed.
    """
    register_configs()
    application = hydra.main(f"pkg://{CONFIG_MODULE}", "sweep", version_base="1.3")(task)
    words = [*overrides, _short_names(overrides)]
    try:
        with _typed(["--multirun", *words]), _logging_kept():
            application()
    except (HydraException, OmegaConfBaseException) as error:
        missing = _missing_launcher(error)
        raise ConfigError(missing or explain(error)) from None


def _missing_launcher(error: Exception) -> str | None:
    """What to install, where that is what Hydra complains about."""
    name = str(getattr(error, "missing_cfg_file", "")).removeprefix("hydra/launcher/")
    if name not in PLUGINS:
        return None
    return f"hydra/launcher: {name} is not installed: pip install alphaedit-plugin[{PLUGINS[name]}]"


@contextmanager
def _typed(words: Sequence[str]) -> Iterator[None]:
    """Hydra reads the process's own words, and raises errors only if it is told to."""
    typed, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [typed[0], *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = typed
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Undo Hydra's set-up of logging for the cells that run in this process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
