"""Pictures of a comparison: colour-blind-safe, and legible when printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from alphaedit_plugin.common.plotting import (
    HATCH,
    blank,
    colour,
    count_edits,
    marker,
    save,
    tidy,
)
from alphaedit_plugin.experiments.cells import Cell, numbers_of
from alphaedit_plugin.metrics.evaluation import Evaluation


def plot_comparison(cells: Sequence[Cell], path: Path) -> None:
    """Draw scores per base, and efficacy and retention over the number of edits."""
    figure = blank(12, 4.2)
    bars, efficacy, retention = figure.subplots(1, 3)
    _draw_scores(bars, cells)
    _draw_curves(efficacy, cells, "efficacy", lambda e: e.efficacy.success)
    if all(cell.final.retained is None for cell in cells):
        _draw_curves(retention, cells, "specificity", _specificity)
    else:
        _draw_curves(retention, cells, "untouched facts still right", lambda e: e.retained)
    efficacy.set_title("Do edits hold?")
    retention.set_title("Does the rest survive?")
    handles, labels = efficacy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) // 2 or 1)
    save(figure, path)


def _specificity(evaluation: Evaluation) -> float | None:
    return evaluation.specificity.success if evaluation.specificity else None


def _draw_scores(axes: Axes, cells: Sequence[Cell]) -> None:
    bases = list(dict.fromkeys(cell.base for cell in cells))
    numbers = numbers_of(bases)
    for cell in cells:
        place = bases.index(cell.base) + (0.2 if cell.null_space else -0.2)
        shade = colour(numbers[cell.base])
        bar = axes.bar(
            place, cell.final.score, 0.38, color=shade if cell.null_space else "white",
            edgecolor=shade, linewidth=1.5, hatch=None if cell.null_space else HATCH,
        )  # fmt: skip
        axes.bar_label(bar, fmt="%.2f", padding=2, fontsize=9)
    axes.set_xticks(range(len(bases)), [base.upper() for base in bases])
    axes.set_ylim(0, 1.08)
    axes.set_ylabel("score (harmonic mean)")
    axes.set_title(f"After {cells[0].points[-1].edits} edits: plain (hatched), null space (solid)")
    tidy(axes, grid=False)


def _draw_curves(
    axes: Axes, cells: Sequence[Cell], label: str, value: Callable[[Evaluation], float | None]
) -> None:
    numbers = numbers_of(cell.base for cell in cells)
    for cell in cells:
        index = numbers[cell.base]
        known = [(p.edits, value(p.evaluation)) for p in cell.points]
        drawn = [(x, y) for x, y in known if y is not None]
        if drawn:
            axes.plot(
                *zip(*drawn, strict=True), color=colour(index),
                marker=marker(index), markersize=5,
                markerfacecolor=None if cell.null_space else "white",
                linestyle="-" if cell.null_space else "--",
                label=f"{cell.base.upper()}{' + null space' if cell.null_space else ''}",
            )  # fmt: skip
    count_edits(axes)
    axes.set_ylabel(label)
    lowest, _ = axes.get_ylim()
    axes.set_ylim(max(0.0, lowest), 1.02)  # from where the curves are: they would lie together
    tidy(axes)
