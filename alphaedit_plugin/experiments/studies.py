"""Runs put together: cells of the same kind over several seeds, and what they are held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev

from alphaedit_plugin.experiments.cells import Cell
from alphaedit_plugin.experiments.results import Run, Setting

MAIN = ("efficacy", "generalisation", "specificity", "retention", "score")
# A main column under its name in `Evaluation.summary`.
COLUMNS: Mapping[str, str] = {
    name: f"{name}.success" if name in MAIN[:3] else name for name in MAIN
}


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Attributes:
        mean: over the seeds.
        deviation: sample standard deviation; ``None`` with one seed.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of one value per seed; ``None`` where there is none."""
        if not values:
            return None
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Entry:
    """One row of a study: a base, plain or projected, in one variant, over its seeds.

    Attributes:
        base: the base method.
        null_space: whether it is projected.
        variant: the settings that tell it from others of the same base and side.
        cells: by seed.
    """

    base: str
    null_space: bool
    variant: tuple[tuple[str, str], ...]
    cells: Mapping[int, Cell]

    @property
    def side(self) -> str:
        """Plain or projected, and the variant."""
        words = [f"{key} {value}" for key, value in self.variant]
        return ", ".join(["null space" if self.null_space else "plain", *words])

    @property
    def name(self) -> str:
        """For legends and titles."""
        return f"{self.base.upper()}, {self.side}"

    @property
    def first(self) -> Cell:
        """Of the first seed."""
        return next(iter(self.cells.values()))

    def spread(self, column: str) -> Spread | None:
        """Of a column of `Evaluation.summary` after all edits."""
        found = [cell.final.summary for cell in self.cells.values()]
        return Spread.of([summary[column] for summary in found if column in summary])

    def curve(self, column: str) -> dict[int, Spread]:
        """The same after each number of edits at which there are all seeds."""
        return _over_seeds(
            [{p.edits: p.evaluation.summary for p in cell.points} for cell in self.cells.values()],
            column,
        )

    def ability(self, task: str) -> dict[int, Spread]:
        """What a task of `Cell.abilities` gave after each number of edits, 0 before any."""
        return _over_seeds([cell.abilities for cell in self.cells.values()], task)


@dataclass(frozen=True)
class Study:
    """Runs on the same model and data, with as many edits in as large batches.

    Attributes:
        setting: theirs; its seed is the first one's.
        runs: in the order given.
    """

    setting: Setting
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[int]:
        """All seeds of its runs."""
        return sorted({run.setting.seed for run in self.runs})

    @property
    def before(self) -> Run:
        """A run, for its evaluation of the unedited model."""
        return self.runs[0]

    @cached_property
    def entries(self) -> list[Entry]:
        """The rows: base after base, plain before projected; a cell that came twice counts once."""
        cells = [(run.setting.seed, cell) for run in self.runs for cell in run.cells]
        bases = list(dict.fromkeys(cell.base for _, cell in cells))
        found: dict[tuple[str, bool, tuple[tuple[str, str], ...]], dict[int, Cell]] = {}
        for base in bases:
            for side in (False, True):
                alike = [(s, c) for s, c in cells if (c.base, c.null_space) == (base, side)]
                keys = _differing(cell.settings for _, cell in alike)
                for seed, cell in alike:
                    variant = tuple((key, str(cell.settings.get(key, "–"))) for key in keys)
                    found.setdefault((base, side, variant), {}).setdefault(seed, cell)
        return [Entry(*key, seeds) for key, seeds in found.items()]

    def plain_of(self, entry: Entry) -> Entry | None:
        """What a projected entry is held against: the plain one of the same base and settings."""
        if not entry.null_space:
            return None
        for other in self.entries:
            if other.base == entry.base and not other.null_space:
                theirs, ours = dict(other.variant), entry.first.settings
                if all(str(ours.get(key, value)) == value for key, value in theirs.items()):
                    return other
        return None

    @property
    def pairs(self) -> list[tuple[Entry, Entry]]:
        """Every projected entry after its plain one."""
        found = [(self.plain_of(entry), entry) for entry in self.entries]
        return [(plain, entry) for plain, entry in found if plain is not None]

    @property
    def main(self) -> dict[str, str]:
        """Those of `COLUMNS` that the data has something for."""
        return {
            name: column
            for name, column in COLUMNS.items()
            if any(entry.spread(column) is not None for entry in self.entries)
        }

    @property
    def abilities(self) -> list[str]:
        """The tasks that general abilities were measured by."""
        cells = [cell for entry in self.entries for cell in entry.cells.values()]
        return list(
            dict.fromkeys(t for c in cells for found in c.abilities.values() for t in found)
        )

    @property
    def others(self) -> list[str]:
        """The columns besides the main ones, in the order of the metrics."""
        seen = dict.fromkeys(
            column
            for entry in self.entries
            for cell in entry.cells.values()
            for column in cell.final.summary
        )
        return [column for column in seen if column not in COLUMNS.values()]


def studies_of(runs: Iterable[Run]) -> list[Study]:
    """Group runs that differ in their seed and cells only."""
    groups: dict[Setting, list[Run]] = {}
    for run in runs:
        groups.setdefault(replace(run.setting, seed=0), []).append(run)
    return [Study(group[0].setting, tuple(group)) for group in groups.values()]


def _over_seeds(
    found: Sequence[Mapping[int, Mapping[str, float]]], column: str
) -> dict[int, Spread]:
    """A column after each number of edits at which all seeds have it."""
    points: dict[int, list[float]] = {}
    for seed in found:
        for edits, values in seed.items():
            if column in values:
                points.setdefault(edits, []).append(values[column])
    return {
        edits: spread
        for edits, values in sorted(points.items())
        if len(values) == len(found) and (spread := Spread.of(values))
    }


def _differing(settings: Iterable[Mapping[str, object]]) -> list[str]:
    """The keys whose values are not the same everywhere."""
    known = list(settings)
    keys = dict.fromkeys(key for one in known for key in one)
    return [key for key in keys if len({str(one.get(key, "–")) for one in known}) > 1]
