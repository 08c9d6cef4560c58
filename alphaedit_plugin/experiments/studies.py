"""Cells put together: the rows of a report, each over several seeds, and pairs of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev

from alphaedit_plugin.experiments.results import Cell, Setting
from alphaedit_plugin.metrics.evaluation import ASPECTS

# The main columns, and their names in `Evaluation.summary`.
COLUMNS: Mapping[str, str] = {
    **{name: f"{name}.success" for name in ASPECTS},
    "retention": "retention",
    "score": "score",
}
Variant = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Spread:
    """Mean of a number over seeds, and its sample deviation; ``None`` with one seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of one value per seed; ``None`` where there is none."""
        if not values:
            return None
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Row:
    """A base, plain or projected, in one variant, over its seeds.

    Attributes:
        variant: settings that differ from those of other rows of the same base and side.
        cells: by seed.
    """

    base: str
    null_space: bool
    variant: Variant
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
        summaries = [cell.final.summary for cell in self.cells.values()]
        return Spread.of([summary[column] for summary in summaries if column in summary])

    def curve(self, column: str) -> dict[int, Spread]:
        """The same by edits so far."""
        return _over_seeds(
            [{p.edits: p.evaluation.summary for p in cell.points} for cell in self.cells.values()],
            column,
        )

    def ability(self, task: str) -> dict[int, Spread]:
        """What a task of `Cell.abilities` gave, by edits so far."""
        return _over_seeds([cell.abilities for cell in self.cells.values()], task)

    def norm(self) -> dict[int, Spread]:
        """``‖Δ‖ / ‖W‖`` of the layer where it is largest, by edits so far."""
        return _over_seeds(
            [
                {p.edits: {"norm": max(p.norms.values())} for p in cell.points if p.norms}
                for cell in self.cells.values()
            ],
            "norm",
        )


@dataclass(frozen=True)
class Study:
    """Cells that differ in seed, method and settings only.

    Attributes:
        cells: in the order given.
        other: whether they edit other requests than an earlier study of the same setting.
    """

    cells: tuple[Cell, ...]
    other: bool = False

    @property
    def setting(self) -> Setting:
        """Of the first cell."""
        return self.cells[0].setting

    @property
    def seeds(self) -> list[int]:
        """All of them."""
        return sorted({cell.setting.seed for cell in self.cells})

    @property
    def before(self) -> dict[str, float]:
        """The unedited model's columns; of the first cell."""
        return self.cells[0].before.summary

    @cached_property
    def rows(self) -> list[Row]:
        """Base after base, plain before projected; a cell that came twice counts once."""
        rows: dict[tuple[str, bool, Variant], dict[int, Cell]] = {}
        for base in dict.fromkeys(cell.base for cell in self.cells):
            for side in (False, True):
                alike = [c for c in self.cells if (c.base, c.null_space) == (base, side)]
                keys = _differing([cell.settings for cell in alike])
                for cell in alike:
                    variant = tuple((key, str(cell.settings.get(key, "–"))) for key in keys)
                    seeds = rows.setdefault((base, side, variant), {})
                    seeds.setdefault(cell.setting.seed, cell)
        return [Row(*key, seeds) for key, seeds in rows.items()]

    def plain_of(self, row: Row) -> Row | None:
        """The plain row of the same base and settings as a projected one."""
        if not row.null_space:
            return None
        for other in self.rows:
            if other.base == row.base and not other.null_space:
                theirs, ours = dict(other.variant), row.first.settings
                if all(str(ours.get(key, value)) == value for key, value in theirs.items()):
                    return other
        return None

    @property
    def pairs(self) -> list[tuple[Row, Row]]:
        """Every projected row after its plain one."""
        pairs = [(self.plain_of(row), row) for row in self.rows]
        return [(plain, row) for plain, row in pairs if plain is not None]

    @property
    def main(self) -> dict[str, str]:
        """Those of `COLUMNS` that the data has something for."""
        present = {column for cell in self.cells for column in cell.final.summary}
        return {name: column for name, column in COLUMNS.items() if column in present}

    @property
    def others(self) -> list[str]:
        """The columns besides the main ones, in the order of the metrics."""
        present = dict.fromkeys(column for cell in self.cells for column in cell.final.summary)
        return [column for column in present if column not in COLUMNS.values()]

    @property
    def abilities(self) -> list[str]:
        """The tasks that general abilities were measured by."""
        return list(
            dict.fromkeys(t for c in self.cells for tasks in c.abilities.values() for t in tasks)
        )


def studies_of(cells: Iterable[Cell]) -> list[Study]:
    """Group cells that can be compared: same model, data, edits, and per seed the same requests."""
    groups: dict[tuple[Setting, int], list[Cell]] = {}
    selections: dict[Setting, list[str]] = {}  # what cells of one seed edit
    for cell in cells:
        same = selections.setdefault(replace(cell.setting, requests=""), [])
        if cell.setting.requests not in same:
            same.append(cell.setting.requests)
        key = (replace(cell.setting, seed=0, requests=""), same.index(cell.setting.requests))
        groups.setdefault(key, []).append(cell)
    return [Study(tuple(group), other > 0) for (_, other), group in groups.items()]


def _over_seeds(
    seeds: Sequence[Mapping[int, Mapping[str, float]]], column: str
) -> dict[int, Spread]:
    """A column after each number of edits at which all seeds have it."""
    points: dict[int, list[float]] = {}
    for seed in seeds:
        for edits, values in seed.items():
            if column in values:
                points.setdefault(edits, []).append(values[column])
    return {
        edits: spread
        for edits, values in sorted(points.items())
        if len(values) == len(seeds) and (spread := Spread.of(values))
    }


def _differing(settings: Sequence[Mapping[str, object]]) -> list[str]:
    """The keys whose values are not the same everywhere."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({str(one.get(key, "–")) for one in settings}) > 1]
