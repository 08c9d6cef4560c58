"""The pictures of a report: colour-blind-safe, labelled, and legible when printed in grey."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from alphaedit_plugin.common.plotting import (
    HATCH,
    PALETTE,
    blank,
    colour,
    count_edits,
    marker,
    tidy,
)
from alphaedit_plugin.experiments.studies import Row, Spread, Study
from alphaedit_plugin.experiments.tables import Gains
from alphaedit_plugin.methods.base import METHODS
from alphaedit_plugin.metrics.evaluation import SURVIVAL, Evaluation
from alphaedit_plugin.metrics.shift import Shift

WRONG, RIGHT = PALETTE[4], PALETTE[0]  # far apart in grey, too
BEFORE, AFTER = "#000000", PALETTE[1]
WIDTH = 11.0  # inches

Curve = Callable[[Row], Mapping[int, Spread]]


def curves(study: Study) -> Figure:
    """Every main column over the number of edits; a band of one standard deviation over seeds."""
    by_column = {name: partial(Row.curve, column=column) for name, column in study.main.items()}
    figure, panels = _panels(study, by_column, share=True)
    for axes, (name, column) in zip(panels, study.main.items(), strict=True):
        if name in ("specificity", "retention") and column in study.before:
            axes.axhline(study.before[column], color="black", linewidth=1, linestyle=":")
    panels[0].set_ylim(top=1.01)  # of shares; where they begin is shared, too
    return figure


def abilities(study: Study) -> Figure | None:
    """General abilities over the number of edits."""
    by_task = {task: partial(Row.ability, task=task) for task in study.abilities}
    return _panels(study, by_task)[0] if by_task else None


def norms(study: Study) -> Figure:
    """How large the accumulated delta is beside the weight: the largest of all layers."""
    figure, (axes,) = _panels(study, {"‖Δ‖ / ‖W‖": Row.norm})
    axes.set_ylim(bottom=0)
    return figure


def gain_bars(study: Study, gains: Gains) -> Figure:
    """The gain of every projected row per main column, with its interval."""
    figure = blank(WIDTH, 3.4)
    axes = figure.subplots()
    names = list(study.main)
    for number, (place, columns) in enumerate(gains.items()):
        offset = (number - (len(gains) - 1) / 2) * 0.8 / len(gains)
        bars = [(i, columns[name]) for i, name in enumerate(names) if name in columns]
        shade = _shade(study, study.rows[place], number)
        values = np.array([gain.value for _, gain in bars])
        ends = np.array([(gain.low, gain.high) for _, gain in bars]).T
        axes.bar(
            [i + offset for i, _ in bars], values, 0.72 / len(gains), color=colour(shade),
            edgecolor="black", linewidth=0.6, hatch=("", HATCH, "...", "xx")[shade % 4],
            label=study.rows[place].name, yerr=np.abs(ends - values), capsize=3,
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("gain over the plain base")
    tidy(axes)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    return figure


def survival(study: Study) -> Figure | None:
    """For each edit, whether it held at each later point; the first seed."""
    rows = [row for row in study.rows if len(row.first.points) > 1]
    if not rows:
        return None
    figure, panels = _grid(rows, 2.6, share=True)
    for row, axes in zip(rows, panels, strict=True):
        points = row.first.points
        held = survival_matrix([point.evaluation for point in points])
        axes.pcolormesh(
            [0, *(point.edits for point in points)], np.arange(len(held) + 1), held,
            cmap=ListedColormap([WRONG, RIGHT]), vmin=0, vmax=1, rasterized=True,
        )  # fmt: skip
        axes.set_title(f"{row.name}: {np.nanmean(held[:, -1]):.0%}", fontsize=9)
        axes.set_xlabel("sequential edits", fontsize=8)
        axes.set_ylabel("edit", fontsize=8)
        tidy(axes, grid=False)
    legend = [Patch(color=RIGHT, label="still right"), Patch(color=WRONG, label="wrong"),
              Patch(facecolor="white", edgecolor="black", label="not edited yet")]  # fmt: skip
    figure.legend(handles=legend, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def survival_matrix(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """``(edits, points)``: 1 where an edit held at a point, 0 where not, nan before it was made."""
    points = [evaluation.readings[SURVIVAL["success"]].totals for evaluation in evaluations]
    matrix = np.full((len(points[-1]), len(points)), np.nan)
    for column, held in zip(matrix.T, points, strict=True):
        column[: len(held)] = held
    return matrix


def shifts(study: Study) -> Figure | None:
    """Hidden states of prompts that no edit is about, before and after; the first seed."""
    drawn = [(row, shift) for row in study.rows if (shift := row.first.shift) is not None]
    if not drawn:
        return None
    figure, panels = _grid([row for row, _ in drawn], 2.8)
    reach = max(max(map(abs, p)) for _, shift in drawn for p in (*shift.before, *shift.after))
    for (row, shift), axes in zip(drawn, panels, strict=True):
        _clouds(axes, shift)
        axes.set_title(f"{row.name}: {shift.relative:.2f}", fontsize=9)
        axes.set(xlim=(-1.05 * reach, 1.05 * reach), ylim=(-1.05 * reach, 1.05 * reach))
        axes.set_aspect("equal")
        tidy(axes, grid=False)
        axes.tick_params(labelsize=7)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _clouds(axes: Axes, shift: Shift) -> None:
    """Open circles before, crosses after, a line between the two of a prompt."""
    (x0, y0), (x1, y1) = np.array(shift.before).T, np.array(shift.after).T
    axes.plot([x0, x1], [y0, y1], color="0.6", linewidth=0.5, zorder=1)
    axes.scatter(x0, y0, s=14, facecolors="none", edgecolors=BEFORE, linewidths=0.6, label="before")
    axes.scatter(x1, y1, s=10, marker="x", color=AFTER, linewidths=0.8, label="after all edits")


def _panels(
    study: Study, curves: Mapping[str, Curve], share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A panel of each of ``curves``, by title, three side by side, then the legend."""
    columns = min(3, len(curves) + 1)
    lines = -(-(len(curves) + 1) // columns)
    figure = blank(WIDTH * columns / 3, 3 * lines)
    grid = figure.subplots(lines, columns, sharex=share, sharey=share, squeeze=False)
    panels = list(grid.ravel())
    for axes, (title, curve) in zip(panels, curves.items(), strict=False):
        _draw(axes, study, curve)
        axes.set_title(title)
        axes.tick_params(labelbottom=True)
    for axes in panels[len(curves) :]:
        axes.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    panels[len(curves)].legend(handles, labels, loc="center left", fontsize=9, frameon=False)
    return figure, panels[: len(curves)]


def _draw(axes: Axes, study: Study, curve: Curve) -> None:
    """A line per row: color and marker by base, solid where projected; a band over seeds."""
    for number, row in enumerate(study.rows):
        shade, spreads = _shade(study, row, number), curve(row)
        edits, means = list(spreads), np.array([spread.mean for spread in spreads.values()])
        axes.plot(
            edits, means, color=colour(shade), marker=marker(shade), markersize=4.5,
            label=row.name, linestyle="-" if row.null_space else "--",
            markerfacecolor=None if row.null_space else "white",
        )  # fmt: skip
        wide = np.array([spread.deviation or 0 for spread in spreads.values()])
        if wide.any():
            band = (means - wide, means + wide)
            axes.fill_between(edits, *band, color=colour(shade), alpha=0.15, linewidth=0)
    count_edits(axes)
    tidy(axes)


def _shade(study: Study, row: Row, number: int) -> int:
    """A number of the base, the same in every report, or ``number`` to distinguish variants."""
    same = [r for r in study.rows if (r.base, r.null_space) == (row.base, row.null_space)]
    bases = list(dict.fromkeys([*METHODS, *(r.base for r in study.rows)]))
    return number if len(same) > 1 else bases.index(row.base)


def _grid(rows: Sequence[Row], height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    """A panel per row: plain ones above their projected selves where that fills a grid."""
    plain = sum(not row.null_space for row in rows)
    columns = plain if 2 * plain == len(rows) else min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = blank(max(WIDTH * columns / 4, 4), height * lines + 0.4)
    panels = figure.subplots(lines, columns, sharex=share, sharey=share, squeeze=False)
    flat = list(panels.T.ravel() if columns == plain else panels.ravel())
    for unused in flat[len(rows) :]:
        unused.axis("off")
    return figure, flat[: len(rows)]
