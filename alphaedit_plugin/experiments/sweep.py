"""``alphaedit compare -m``: a sweep through Hydra itself, by any launcher; a job is a cell."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.groups import CONFIG_MODULE
from alphaedit_plugin.config.build import check_sources
from alphaedit_plugin.config.compose import load_config, register_configs
from alphaedit_plugin.config.explain import explain
from alphaedit_plugin.config.overrides import key_of
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.experiments.comparison_report import report_folder, write_metrics
from alphaedit_plugin.experiments.grid import refuse_useless
from alphaedit_plugin.experiments.jobs import abilities_of
from alphaedit_plugin.experiments.study import data_of, prepare, run_alone

logger = logging.getLogger(__name__)

FLAGS = ("-m", "--multirun")
NAMED = ("base", "null_space", "model", "data", "seed")  # in a folder's name though all agree
LAUNCHER = ("hydra/launcher", "hydra.launcher")
# Launchers that come with a package of their own, and our extra that brings it.
PLUGINS: Mapping[str, str] = MappingProxyType(
    {"joblib": "sweep", "submitit_local": "sweep", "submitit_slurm": "sweep", "ray": "ray"}
)
# The rehearsal is over in seconds, here, and leaves nothing behind but the cells' folders.
REHEARSAL = ("hydra/launcher=basic", "hydra/job_logging=none", "hydra/hydra_logging=none",
             "hydra.output_subdir=null")  # fmt: skip


def run_sweep(words: Sequence[str], console: Console) -> list[Path]:
    """Run every cell of a sweep, in a folder of its own, with its ``metrics.json``.

    All cells are composed and checked first, so that a typing error does not show after hours.

    Args:
        words: as on the command line: overrides, of which some are sweeps.
        console: where it says what to do with the result.

    Returns:
        The cells' folders.

    Raises:
        AlphaEditError: what a cell raised; the others have run, and a second time only those
            that are not done will.
    """
    overrides = [word for word in words if word not in FLAGS]
    refuse_useless(overrides, sweeping=True)
    given = [*overrides, _named_by_what_is_swept(overrides)]
    rehearsal = Rehearsal()
    _through_hydra(rehearsal, [*_without_launcher(given), *REHEARSAL])
    rehearsal.check()
    say(console, f"{len(rehearsal.folders)} cells")
    _through_hydra(run_job, given)
    folder = os.path.commonpath(rehearsal.folders)
    say(console, f"{len(rehearsal.folders)} cells in {folder}: alphaedit report {folder}")
    return rehearsal.folders


def run_job(_: DictConfig) -> None:
    """One cell, as any launcher calls it, here or on another machine."""
    config, folder = _this_job()
    command = " ".join(["alphaedit compare -m", *HydraConfig.get().overrides.task])
    study = prepare([config])
    cell = run_alone(study, study.jobs[0], folder)
    write_metrics(study.run_of([cell], command), folder)
    logger.info("%s: %s", cell.name, folder)


@dataclass
class Rehearsal:
    """A task that runs nothing: it looks at each cell of a sweep before the first one runs.

    Attributes:
        folders: of the cells.
    """

    folders: list[Path] = field(default_factory=list)
    _sources: set[str] = field(default_factory=set)

    def __call__(self, _: DictConfig) -> None:
        """Look at one cell."""
        config, folder = _this_job()
        report_folder(str(folder))
        check_sources(config)
        abilities_of(config.compare).check()
        source = repr((config.data, config.model.path, config.seed))
        if source not in self._sources:
            data_of(config)
            self._sources.add(source)
        self.folders.append(folder)

    def check(self) -> None:
        """Refuse a sweep whose cells would write over one another.

        Raises:
            ConfigError: there are two of the same folder.
        """
        twice = [folder for folder in self.folders if self.folders.count(folder) > 1]
        if twice:
            raise ConfigError(f"two cells would be written to {twice[0]}: sweep no value twice")


def _this_job() -> tuple[EditorConfig, Path]:
    """Its configuration, with what the model is tuned to, and its folder."""
    job = HydraConfig.get()
    return load_config(list(job.overrides.task)), Path(job.runtime.output_dir)


def _named_by_what_is_swept(overrides: Sequence[str]) -> str:
    """An override: most of what is the same in all cells is no part of their folders' names."""
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


def _through_hydra(task: Callable[[DictConfig], None], overrides: Sequence[str]) -> None:
    """Let Hydra's own application run ``task`` for each cell.

    Raises:
        ConfigError: what does not compose, or a launcher that is not installed.
    """
    register_configs()
    application = hydra.main(f"pkg://{CONFIG_MODULE}", "sweep", version_base="1.3")(task)
    try:
        with _typed(["--multirun", *overrides]):
            application()
    except (HydraException, OmegaConfBaseException) as error:
        missing = _missing_launcher(error)
        raise ConfigError(missing or explain(error)) from None


def _missing_launcher(error: Exception) -> str | None:
    """What to install, where that is what Hydra complains of."""
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
