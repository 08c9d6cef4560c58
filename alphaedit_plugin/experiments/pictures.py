"""The pictures of a report: colour-blind-safe, labelled, and legible when printed in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from alphaedit_plugin.experiments.bootstrap import Gain
from alphaedit_plugin.experiments.cells import numbers_of
from alphaedit_plugin.experiments.studies import Entry, Spread, Study
from alphaedit_plugin.metrics.evaluation import SURVIVAL, Evaluation
from alphaedit_plugin.metrics.shift import Shift

WRONG, RIGHT = PALETTE[4], PALETTE[0]  # far apart in grey, too
BEFORE, AFTER = "#000000", PALETTE[1]
WIDTH = 11.0  # inches


def curves(study: Study) -> Figure:
    """Every main column over the number of edits; a band of one standard deviation over seeds."""
    figure = blank(WIDTH, 6)
    panels = figure.subplots(2, 3, sharex=True, sharey=True).ravel()
    before = study.before.before.summary
    for axes, (name, column) in zip(panels, study.main.items(), strict=False):
        for number, entry in enumerate(study.entries):
            _curve(axes, study, entry, entry.curve(column), number)
        if name in ("specificity", "retention") and column in before:
            axes.axhline(before[column], color="black", linewidth=1, linestyle=":")
        axes.set_title(name)
        count_edits(axes)
        tidy(axes)
    panels[0].set_ylim(top=1.01)  # of shares; where they begin is shared, too
    for axes in panels[:3]:
        axes.tick_params(labelbottom=True)
    for axes in panels[len(study.main) :]:
        axes.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    panels[len(study.main)].legend(handles, labels, loc="center left", fontsize=9, frameon=False)
    return figure


def abilities(study: Study) -> Figure | None:
    """General abilities over the number of edits, a panel per task."""
    tasks = study.abilities
    if not tasks:
        return None
    rows = -(-len(tasks) // 3)
    figure = blank(WIDTH, 2.8 * rows + 0.6)
    panels = figure.subplots(rows, 3, squeeze=False).ravel()
    for axes, task in zip(panels, tasks, strict=False):
        for number, entry in enumerate(study.entries):
            _curve(axes, study, entry, entry.ability(task), number)
        axes.set_title(task)
        count_edits(axes)
        tidy(axes)
    for axes in panels[len(tasks) :]:
        axes.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def norms(study: Study) -> Figure:
    """How large the accumulated delta is beside the weight: the largest of all layers."""
    figure = blank(WIDTH / 2, 3.6)
    axes = figure.subplots()
    for number, entry in enumerate(study.entries):
        found: dict[int, list[float]] = {}
        for cell in entry.cells.values():
            for point in cell.points:
                if point.norms:
                    found.setdefault(point.edits, []).append(max(point.norms.values()))
        spreads = {edits: Spread.of(values) for edits, values in sorted(found.items())}
        _curve(axes, study, entry, {e: s for e, s in spreads.items() if s}, number)
    axes.set_ylabel("‖Δ‖ / ‖W‖")
    count_edits(axes)
    axes.set_ylim(bottom=0)
    tidy(axes)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def gain_bars(study: Study, gains: Mapping[int, Mapping[str, Gain]]) -> Figure:
    """The gain of every projected entry per main column, with its interval."""
    figure = blank(WIDTH, 3.4)
    axes = figure.subplots()
    names = list(study.main)
    for number, (place, columns) in enumerate(gains.items()):
        offset = (number - (len(gains) - 1) / 2) * 0.8 / len(gains)
        known = [(i, columns[name]) for i, name in enumerate(names) if name in columns]
        shade = _shade(study, study.entries[place], number)
        values = np.array([gain.value for _, gain in known])
        ends = np.array([(gain.low, gain.high) for _, gain in known]).T
        axes.bar(
            [i + offset for i, _ in known], values, 0.72 / len(gains), color=colour(shade),
            edgecolor="black", linewidth=0.6, hatch=("", HATCH, "...", "xx")[shade % 4],
            label=study.entries[place].name, yerr=np.abs(ends - values), capsize=3,
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("gain over the plain base")
    tidy(axes)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    return figure


def survival(study: Study, told_by: str) -> Figure | None:
    """For each edit, whether it held at each later point; the first seed.

    Args:
        study: whose entries are drawn.
        told_by: a key of `SURVIVAL`.
    """
    entries = [e for e in study.entries if len(e.first.points) > 1]
    if not entries:
        return None
    figure, panels = _grid(study, entries, 2.6, share=True)
    for entry, axes in zip(entries, panels, strict=True):
        points = entry.first.points
        held = survival_matrix([point.evaluation for point in points], told_by)
        edges = [0, *(point.edits for point in points)]
        axes.pcolormesh(
            edges, np.arange(held.shape[0] + 1), held, cmap=ListedColormap([WRONG, RIGHT]),
            vmin=0, vmax=1, rasterized=True,
        )  # fmt: skip
        still = np.nanmean(held[:, -1])
        axes.set_title(f"{entry.name}: {still:.0%}", fontsize=9)
        axes.set_xlabel("after so many edits", fontsize=8)
        axes.set_ylabel("edit", fontsize=8)
        tidy(axes, grid=False)
    legend = [Patch(color=RIGHT, label="still right"), Patch(color=WRONG, label="wrong"),
              Patch(facecolor="white", edgecolor="black", label="not edited yet")]  # fmt: skip
    figure.legend(handles=legend, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def survival_matrix(evaluations: Sequence[Evaluation], told_by: str) -> np.ndarray:
    """``(edits, points)``: 1 where an edit held at a point, 0 where not, nan before it was made.

    Args:
        evaluations: after more and more edits.
        told_by: a key of `SURVIVAL`.
    """
    rows = [evaluation.readings[SURVIVAL[told_by]].totals for evaluation in evaluations]
    matrix = np.full((len(rows[-1]), len(rows)), np.nan)
    for place, row in enumerate(rows):
        matrix[: len(row), place] = row
    return matrix


def shifts(study: Study) -> Figure | None:
    """Hidden states of prompts that no edit is about, before and after; the first seed."""
    found = [(e, shift) for e in study.entries if (shift := e.first.shift) is not None]
    if not found:
        return None
    figure, panels = _grid(study, [entry for entry, _ in found], 2.8)
    reach = max(max(map(abs, p)) for _, shift in found for p in (*shift.before, *shift.after))
    for (entry, shift), axes in zip(found, panels, strict=True):
        _clouds(axes, shift)
        axes.set_title(f"{entry.name}: {shift.relative:.2f}", fontsize=9)
        axes.set(xlim=(-1.05 * reach, 1.05 * reach), ylim=(-1.05 * reach, 1.05 * reach))
        axes.set_aspect("equal")
        tidy(axes, grid=False)
        axes.tick_params(labelsize=7)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _clouds(axes: Axes, shift: Shift) -> None:
    """Open circles before, crosses after, a line between the two of a prompt."""
    before, after = np.array(shift.before), np.array(shift.after)
    axes.plot(
        [before[:, 0], after[:, 0]], [before[:, 1], after[:, 1]], color="0.6", linewidth=0.5,
        zorder=1,
    )  # fmt: skip
    axes.scatter(
        before[:, 0],
        before[:, 1],
        s=14,
        facecolors="none",
        edgecolors=BEFORE,
        linewidths=0.6,
        label="before",
    )
    axes.scatter(
        after[:, 0],
        after[:, 1],
        s=10,
        marker="x",
        color=AFTER,
        linewidths=0.8,
        label="after all edits",
    )


def _curve(
    axes: Axes, study: Study, entry: Entry, spreads: Mapping[int, Spread], number: int
) -> None:
    """A line per entry: colour and marker by base, full where projected."""
    shade = _shade(study, entry, number)
    edits, means = list(spreads), np.array([spread.mean for spread in spreads.values()])
    axes.plot(
        edits, means, color=colour(shade), marker=marker(shade), markersize=4.5, label=entry.name,
        linestyle="-" if entry.null_space else "--",
        markerfacecolor=None if entry.null_space else "white",
    )  # fmt: skip
    wide = np.array([spread.deviation or 0 for spread in spreads.values()])
    if wide.any():
        axes.fill_between(
            edits, means - wide, means + wide, color=colour(shade), alpha=0.15, linewidth=0
        )


def _shade(study: Study, entry: Entry, number: int) -> int:
    """The base's own number, or ``number`` where there are several variants of it to tell apart."""
    same = [e for e in study.entries if (e.base, e.null_space) == (entry.base, entry.null_space)]
    return number if len(same) > 1 else numbers_of(e.base for e in study.entries)[entry.base]


def _grid(
    study: Study, entries: Sequence[Entry], height: float, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A panel per entry: plain ones above their projected selves where that fills a grid."""
    plain = sum(not entry.null_space for entry in entries)
    columns = plain if 2 * plain == len(entries) else min(4, len(entries))
    rows = -(-len(entries) // columns)
    figure = blank(max(WIDTH * columns / 4, 4), height * rows + 0.4)
    panels = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)
    flat = list(panels.T.ravel() if columns == plain else panels.ravel())
    for unused in flat[len(entries) :]:
        unused.axis("off")
    return figure, flat[: len(entries)]
