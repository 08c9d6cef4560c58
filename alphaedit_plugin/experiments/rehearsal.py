"""What can be told about cells before the first one runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import joblib

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import writable_folder
from alphaedit_plugin.config.build import check_sources
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.experiments.cell_setup import (
    abilities_of,
    data_of,
    is_small,
    most_edits,
    on_cpu,
)
from alphaedit_plugin.experiments.results import METRICS


def rehearse(cells: Iterable[tuple[Path, ComparisonConfig]]) -> dict[Path, int]:
    """Check cells, without loading their models.

    Returns:
        How many edits each makes, by its folder.

    Raises:
        AlphaEditError: two cells of one folder, data or a source of second moments that is not
            there, or what cannot be written.
    """
    edits: dict[Path, int] = {}
    requests: dict[str, int] = {}
    for folder, config in cells:
        if folder in edits:
            raise ConfigError(f"two cells would be written to {folder}: sweep no value twice")
        if (writable_folder("compare.out", str(folder)) / METRICS).is_dir():
            raise ConfigError(f"{folder / METRICS} is a folder: remove it")
        data = repr((config.data, config.model.path, config.seed))
        if data not in requests:
            requests[data] = len(data_of(config).requests)
        check_sources(config)
        abilities_of(config.compare).check()
        edits[folder] = min(most_edits(config), requests[data])
    return edits


def jobs_of(configs: Sequence[ComparisonConfig]) -> int:
    """How many cells to run at once: one per core of a small model, which keeps one core busy.

    Raises:
        ConfigError: several at once are asked for on an accelerator, which they would fight over.
    """
    models, asked = [config.model for config in configs], configs[0].compare.jobs
    if asked is not None and asked > 1 and not all(map(on_cpu, models)):
        raise ConfigError(f"compare.jobs={asked} is for the CPU: remove it on an accelerator")
    most = joblib.cpu_count() if all(map(is_small, models)) else 1
    return min(len(configs), asked or most)
