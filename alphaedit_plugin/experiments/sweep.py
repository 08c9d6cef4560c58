"""``alphaedit compare``: cells, run by Hydra's multirun and any of its launchers.

Without ``-m`` the cells are every base of ``compare.bases``, plain and projected, and a report of
them follows; with ``-m`` they are whatever is swept. What works on a model is imported once all
cells are composed, so that typing errors show at once.
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
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, first_line, unknown_name
from alphaedit_plugin.common.groups import CONFIG_MODULE, options
from alphaedit_plugin.config.compose import load_config, register_configs
from alphaedit_plugin.config.overrides import key_of, owners, read_overrides, unowned
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.config.tuned import read_tuned

logger = logging.getLogger(__name__)

FLAGS = ("-m", "--multirun")
FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra raises errors only where this is 1
NAMED = ("base", "null_space", "model", "data", "seed")  # in a folder's name though not swept
LAUNCHER = ("hydra/launcher", "hydra.launcher")
# Launchers that come with a package of their own, and our extra that brings it.
PLUGINS: Mapping[str, str] = MappingProxyType(
    {"submitit_local": "sweep", "submitit_slurm": "sweep", "ray": "ray"}
)
# The rehearsal takes seconds, in this process, and leaves nothing but empty folders.
REHEARSAL = ("hydra/launcher=basic", "hydra/job_logging=none", "hydra.output_subdir=null")
SWEPT = ("base", "null_space")  # by every comparison; with -m by whatever says so


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
    read_overrides(overrides, ComparisonConfig, sweeping)
    multiruns = [overrides] if sweeping else grid(overrides)
    cells = run_cells(multiruns, " ".join(["alphaedit compare", *words]), reported=not sweeping)
    from alphaedit_plugin.experiments.report import run_report

    folders = [cell.folder for cell in cells]
    out = out_of(cells)
    shown = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
    if sweeping:
        say(console, f"{len(folders)} cells in {shown}: alphaedit report {shown}")
    else:
        run_report(folders, str(shown), console, show=True)
    return folders


@dataclass(frozen=True)
class ComposedCell:
    """A cell that is to run.

    Attributes:
        folder: its own.
        config: what it runs.
        overrides: as Hydra gave them to it.
    """

    folder: Path
    config: ComparisonConfig
    overrides: tuple[str, ...]


def run_cells(
    multiruns: Sequence[Sequence[str]], command: str, reported: bool = False, patient: bool = False
) -> list[ComposedCell]:
    """Run the cells of several of Hydra's multiruns.

    Args:
        multiruns: the overrides of each.
        command: as typed, for the report.
        reported: a report goes to the folder that they share.
        patient: log what a cell raised instead of raising it.

    Raises:
        AlphaEditError: see `run_compare`.
    """
    given = [key_of(override) for one in multiruns for override in one]
    composing = Composing()
    for one in multiruns:
        composed = [o for o in one if not key_of(o).startswith(LAUNCHER)]
        _multirun(composing, [*composed, *REHEARSAL])
    if composing.errors:
        raise composing.errors[0]
    from alphaedit_plugin.experiments.rehearsal import jobs_of, rehearse
    from alphaedit_plugin.experiments.report import report_folder
    from alphaedit_plugin.experiments.watching import progress_of

    cells = composing.cells
    if reported:
        report_folder("compare.out", str(out_of(cells)))
    edits = rehearse((cell.folder, cell.config) for cell in cells)
    title, launcher = f"{len(cells)} cells", list[str]()
    if not any(key.startswith(LAUNCHER) for key in given):
        jobs = jobs_of([cell.config for cell in cells])
        if jobs > 1:
            title += f", {jobs} at once"
            launcher = ["hydra/launcher=cores", f"hydra.launcher.n_jobs={jobs}"]
            _start_workers(jobs)
    failures = []
    with progress_of(edits, title):
        for one in multiruns:
            try:
                _multirun(CellTask(command), [*one, *launcher])
            except AlphaEditError as error:
                failures.append(error)
                if patient:
                    logger.warning("a cell failed: %s", error)
    if failures and not patient:
        raise failures[0]
    return cells


def out_of(cells: Sequence[ComposedCell]) -> Path:
    """The folder that the cells' folders are in."""
    return Path(os.path.commonpath([cell.folder.parent for cell in cells]))


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """Multiruns of every base of ``compare.bases``, plain and projected.

    Bases that take the same overrides are one multirun.

    Raises:
        ConfigError: see `overrides_by_base`.
    """
    config, by_base = overrides_by_base(overrides)
    folder = Path(config.compare.out).expanduser()
    fixed = ["hydra.sweeper.params=null", f"hydra.sweep.dir='{folder}'"]  # not an experiment's
    alike: dict[tuple[str, ...], list[str]] = {}
    for base, taken in by_base.items():
        alike.setdefault(tuple(taken), []).append(base)
    return [
        [*taken, f"base={','.join(bases)}", "null_space=false,true", *fixed]
        for taken, bases in alike.items()
    ]


def overrides_by_base(
    overrides: Sequence[str],
) -> tuple[ComparisonConfig, dict[str, list[str]]]:
    """What all bases of ``compare.bases`` share, and the overrides of each.

    An override ``base.x=…`` goes to those bases that have a field ``x``.

    Raises:
        ConfigError: no base, an override that no base takes, or one that does not compose.
    """
    of_bases = [o for o in overrides if key_of(o).startswith("base.")]
    common = [o for o in overrides if o not in of_bases]
    config = load_config(common, ComparisonConfig)
    bases = config.compare.bases
    if not bases:
        raise ConfigError("compare.bases is empty: name at least one base method")
    for base in bases:
        if base not in options("base"):
            raise ConfigError(unknown_name("base method", base, options("base")))
    takers = {
        override: owners("base", key_of(override).removeprefix("base.")) for override in of_bases
    }
    for override, takes in takers.items():
        if not set(takes) & set(bases):
            raise ConfigError(f"none of {', '.join(bases)} has a setting for {override!r}")
    return config, {base: [*common, *(o for o in of_bases if base in takers[o])] for base in bases}


def refuse_useless(overrides: Sequence[str], sweeping: bool) -> None:
    """Refuse overrides of what a comparison, or a sweep, chooses itself.

    Raises:
        ConfigError: there is one; the message says what to use instead.
    """
    for override in overrides:
        if sweeping and key_of(override) == "compare.bases":
            raise ConfigError(f"a sweep has no use for {override!r}: write -m base=rome,memit")
        if not sweeping and key_of(override) in SWEPT:
            raise ConfigError(
                f"compare has no use for {override!r}: it runs every base of compare.bases=[…] "
                "with and without the null space; or sweep: alphaedit compare -m base=rome,memit"
            )


@dataclass(frozen=True)
class CellTask:
    """What any launcher calls for a cell, here or on another machine."""

    command: str  # as typed, for the report

    def __call__(self, _: DictConfig) -> None:
        """Run the cell that Hydra has set up."""
        from transformers.utils.logging import disable_progress_bar

        from alphaedit_plugin.experiments.cell import run_cell

        disable_progress_bar()  # of loading a model; the cell may have its own process
        cell = _this_job()
        try:
            run_cell(cell.config, cell.folder, self.command)
        except Exception as error:
            # Hydra keeps the error until all cells have run, and with its frames the model.
            traceback.clear_frames(error.__traceback__)
            raise


@dataclass
class Composing:
    """A task that only notes what it would run."""

    cells: list[ComposedCell] = field(default_factory=list)
    errors: list[ConfigError] = field(default_factory=list)

    def __call__(self, _: DictConfig) -> None:
        """Note the cell that Hydra has set up."""
        try:
            self.cells.append(_this_job())
        except ConfigError as error:  # which Hydra would report in lines of its own
            self.errors.append(error)


def _this_job() -> ComposedCell:
    """The cell that Hydra runs now, with the settings that were tuned for it."""
    job = HydraConfig.get()
    overrides = tuple(job.overrides.task)
    config = load_config(overrides, ComparisonConfig)
    if config.compare.tuned is not None:
        given = {key_of(override) for override in overrides}
        tuned = read_tuned(config.compare.tuned).overrides(config.base["name"], config.null_space)
        more = [override for override in tuned if key_of(override) not in given]
        config = load_config([*more, *overrides], ComparisonConfig)
    return ComposedCell(Path(job.runtime.output_dir), config, overrides)


def _start_workers(jobs: int) -> None:
    """Start the processes that the launcher will use, so that they leave Ctrl-C to this one."""
    if current_thread() is not main_thread():
        return
    import joblib
    from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf

    # With any other settings than the launcher's, joblib would replace these processes.
    settings = {key: value for key, value in vars(JobLibLauncherConf()).items() if key[0] != "_"}
    settings |= {"n_jobs": jobs, "backend": "loky"}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        joblib.Parallel(**settings)(joblib.delayed(os.getpid)() for _ in range(jobs))
    finally:
        signal.signal(signal.SIGINT, before)


def _short_names(overrides: Sequence[str]) -> str:
    """An override: folders are named after what is swept, and little of what is the same in all."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(first_line(error)) from None
    fixed = [one.key_or_group for one in parsed if not one.is_sweep_override()]
    left_out = ["experiment", *(name for name in fixed if name not in NAMED)]
    names = ",".join(f"'{name}'" for name in left_out)
    return f"hydra.job.config.override_dirname.exclude_keys=[{names}]"


def _multirun(task: Callable[[DictConfig], None], overrides: Sequence[str]) -> None:
    """Let Hydra's own application run ``task`` for each cell.

    Raises:
        ConfigError: what does not compose, or a launcher that is not installed.
    """
    register_configs(ComparisonConfig)
    application = hydra.main(f"pkg://{CONFIG_MODULE}", "sweep", version_base="1.3")(task)
    try:
        with _as_application(["--multirun", *overrides, _short_names(overrides)]):
            application()
    except (HydraException, OmegaConfBaseException) as error:
        told = _missing_launcher(error) or unowned(overrides) or first_line(error)
        raise ConfigError(told) from None


def _missing_launcher(error: Exception) -> str | None:
    """What to install, where that is what Hydra complains about."""
    name = str(getattr(error, "missing_cfg_file", "")).removeprefix("hydra/launcher/")
    if name not in PLUGINS:
        return None
    return f"hydra/launcher: {name} is not installed: pip install alphaedit-plugin[{PLUGINS[name]}]"


@contextmanager
def _as_application(words: Sequence[str]) -> Iterator[None]:
    """Let Hydra read ``words``, raise its errors, and set up logging for what it runs, inside."""
    root = logging.getLogger()
    typed, handlers, level = sys.argv, list(root.handlers), root.level
    full = os.environ.get(FULL_ERROR)
    sys.argv = [typed[0], *words]
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        sys.argv, root.handlers[:] = typed, handlers
        root.setLevel(level)
        if full is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = full
