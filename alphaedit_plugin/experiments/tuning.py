"""``alphaedit tune``: the best settings of each base, plain and projected, with equal effort.

Every combination of a grid is a cell, run as `alphaedit_plugin.experiments.sweep` runs any; both
sides have as many. What was tried is kept as a table, and a comparison leaves out the records that
it was tried on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import replacing, writable_folder
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.overrides import key_of, read_overrides
from alphaedit_plugin.config.schema import ComparisonConfig, Grids
from alphaedit_plugin.config.tuned import TUNED, side_of
from alphaedit_plugin.experiments.results import METRICS, read_cell
from alphaedit_plugin.experiments.studies import COLUMNS
from alphaedit_plugin.experiments.sweep import (
    FLAGS,
    ComposedCell,
    overrides_by_base,
    refuse_useless,
    run_cells,
)
from alphaedit_plugin.experiments.tables import Field, Table, markdown, number, plain

TABLE = "tuning.md"
SIDES = (False, True)
# What is tried where no grid is given, in units of the model's own settings: λ or the ridge; for
# ROME, which has neither, how far a target value may go.
FACTORS = (0.01, 0.1, 1.0, 10.0)
REPLACED = ("compare.edits", "compare.every", "compare.out", "compare.retention")
RADII = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Trial:
    """One combination, after its run.

    Attributes:
        base: the base method.
        null_space: which side.
        settings: the combination, as overrides.
        summary: `Evaluation.summary` after all edits.
        asked: `prompt_digest` of what it was tried on.
    """

    base: str
    null_space: bool
    settings: tuple[str, ...]
    summary: Mapping[str, float]
    asked: tuple[str, ...]

    @property
    def score(self) -> float:
        """What is tuned."""
        return self.summary["score"]


def run_tune(words: Sequence[str], console: Console) -> None:
    """Try every combination of ``compare.tuning.grids``, and write which are best.

    Trials that an earlier run finished are not repeated; one that fails is left out.

    Args:
        words: as on the command line.
        console: where the table, and what to do next, is printed.

    Raises:
        AlphaEditError: a setting that does not fit, before anything runs; or all trials of a base
            and side failed.
    """
    if set(words) & set(FLAGS):
        raise ConfigError("tune takes no -m: it tries every combination of compare.tuning.grids")
    refuse_useless(words, sweeping=False)
    config, by_base = overrides_by_base(words)
    folder = writable_folder("compare.tuning.out", config.compare.tuning.out)
    grids = {
        base: grids_of(load_config([*taken, f"base={base}"], ComparisonConfig))
        for base, taken in by_base.items()
    }
    multiruns = [
        run
        for base, taken in by_base.items()
        for run in _multiruns(base, taken, config, grids[base])
    ]
    cells = run_cells(multiruns, " ".join(["alphaedit tune", *words]), patient=True)
    trials = [_trial(cell, grids) for cell in cells if (cell.folder / METRICS).is_file()]
    best = {base: {side_of(side): best_of(trials, base, side) for side in SIDES} for base in grids}
    document = {
        "settings": {
            base: {side: list(trial.settings) for side, trial in sides.items()}
            for base, sides in best.items()
        },
        "asked": sorted({digest for trial in trials for digest in trial.asked}),
    }
    chosen = [trial for sides in best.values() for trial in sides.values()]
    table = table_of(trials, chosen, config)
    written = {TUNED: yaml.safe_dump(document, sort_keys=False), TABLE: markdown(table) + "\n"}
    for name, text in written.items():
        with replacing(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    console.print(plain(table))
    say(
        console, f"{folder / TABLE}, {TUNED}; to use them: alphaedit compare compare.tuned={folder}"
    )


def grids_of(config: ComparisonConfig) -> Grids:
    """What is tried for the base of ``config``.

    Raises:
        ConfigError: one side has more combinations than the other, or a setting has no value.
    """
    base = config.base["name"]
    grids = config.compare.tuning.grids.get(base) or _default(config)
    empty = [key for side in (grids.plain, grids.null_space) for key in side if not side[key]]
    if empty:
        raise ConfigError(f"compare.tuning.grids.{base}: {empty[0]} has no value to try")
    plain, projected = (prod(map(len, side.values())) for side in (grids.plain, grids.null_space))
    if plain != projected:
        raise ConfigError(
            f"compare.tuning.grids.{base} has {plain} combinations for plain and {projected} for "
            "null_space: give both sides as many"
        )
    return grids


def _default(config: ComparisonConfig) -> Grids:
    if "moment_weight" in config.base:
        weight, ridge = config.model.moment_weight, config.projector.l2
        if weight is None or ridge is None:
            raise ConfigError(
                f"no grid for {config.base['name']}: give compare.tuning.grids, or "
                "model.moment_weight and projector.l2 to try values around them"
            )
        weights = [factor * weight for factor in FACTORS]
        ridges = [factor * ridge for factor in FACTORS]
        return Grids({"model.moment_weight": weights}, {"projector.l2": ridges})
    radii = [factor * config.model.target.clamp_norm_factor for factor in RADII]
    return Grids(*({"model.target.clamp_norm_factor": radii} for _ in SIDES))


def _multiruns(
    base: str, taken: Sequence[str], config: ComparisonConfig, grids: Grids
) -> list[list[str]]:
    """One of each side."""
    tuning = config.compare.tuning
    common = [word for word in taken if key_of(word) not in REPLACED]
    fixed = [
        f"base={base}", f"compare.edits={tuning.edits}", "compare.every=0",
        f"compare.retention={min(config.compare.retention, tuning.retention)}",
        "hydra.sweeper.params=null", f"hydra.sweep.dir='{Path(tuning.out).expanduser()}'",
    ]  # fmt: skip
    return [
        [*common, *fixed, f"null_space={str(side).lower()}", *_swept(grids, side)] for side in SIDES
    ]


def _swept(grids: Grids, side: bool) -> list[str]:
    """A side's grid as on the command line; an unknown key is refused."""
    values = grids.null_space if side else grids.plain
    words = [f"{key}={','.join(map(_word, some))}" for key, some in values.items()]
    return read_overrides(words, ComparisonConfig, sweeping=True)


def _word(value: Any) -> str:
    """A value as on the command line."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _trial(cell: ComposedCell, grids: Mapping[str, Grids]) -> Trial:
    done, base = read_cell(cell.folder), cell.config.base["name"]
    tried = grids[base].null_space if cell.config.null_space else grids[base].plain
    settings = tuple(o for o in cell.overrides if key_of(o) in tried)
    return Trial(base, cell.config.null_space, settings, done.final.summary, done.asked)


def best_of(trials: Sequence[Trial], base: str, null_space: bool) -> Trial:
    """The trial of a base and side with the best score; the first of several.

    Raises:
        ConfigError: there is none.
    """
    some = [trial for trial in trials if (trial.base, trial.null_space) == (base, null_space)]
    if not some:
        raise ConfigError(f"every trial of {base}, {side_of(null_space)}, failed: see the log")
    return max(some, key=lambda trial: trial.score)


def table_of(trials: Sequence[Trial], best: Sequence[Trial], config: ComparisonConfig) -> Table:
    """Every trial; the best of each base and side is bold."""
    names = [name for name, column in COLUMNS.items() if column in trials[0].summary]
    rows = []
    for trial in trials:
        mark = trial in best
        words = [trial.base.upper(), side_of(trial.null_space), ", ".join(trial.settings)]
        numbers = [number(trial.summary[COLUMNS[name]]) for name in names]
        rows.append(tuple(Field(text, mark) for text in (*words, *numbers)))
    caption = (
        f"Every setting tried: {config.compare.tuning.edits} sequential edits in batches of "
        f"{config.batch_size}. The best of each base and side, by the score, in bold."
    )
    return Table(caption, ("base", "side", "settings", *names), tuple(rows), words=3)
