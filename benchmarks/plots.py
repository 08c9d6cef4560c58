"""Pictures of the benchmark: colour-blind-safe, and legible when printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.axes import Axes

from alphaedit_plugin.common.plotting import blank, colour, marker, save, tidy
from benchmarks.growth import Growth
from benchmarks.measure import PHASES
from benchmarks.report import MEGABYTE, NAMES, Results

STYLES = {"plain": "--", "host": ":", "ours": "-"}


def plot(results: Results, path: Path) -> None:
    """Draw time over batch size, time by phase, and time and memory over edits so far."""
    figure = blank(11, 8)
    ((batches, phases), (seconds, memory)) = figure.subplots(2, 2)
    _draw_batches(batches, results)
    _draw_phases(phases, results)
    _draw_seconds(seconds, results)
    _draw_memory(memory, results)
    for axes in (batches, phases, seconds, memory):
        tidy(axes, grid=False)
    save(figure, path)


def _draw_batches(axes: Axes, results: Results) -> None:
    for number, (method, name) in enumerate(NAMES.items()):
        for side, style in STYLES.items():
            rows = [r for r in results.rows if (r.method, r.side) == (method, side)]
            points = sorted((r.batch, r.seconds.total) for r in rows)
            if points:
                axes.plot(
                    *zip(*points, strict=True), style, color=colour(number),
                    marker=marker(number), markersize=5, label=f"{name}, {side}",
                    markerfacecolor=None if side == "ours" else "white",
                )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="requests per batch", ylabel="seconds per edit")
    axes.set_title("Time over batch size")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend(fontsize=8)


def _draw_phases(axes: Axes, results: Results) -> None:
    largest = {m: max((r.batch for r in results.rows if r.method == m), default=0) for m in NAMES}
    rows = [r for r in results.rows if r.batch == largest[r.method]]
    labels = [f"{NAMES[r.method]}, {r.side}" for r in rows]
    starts = [0.0] * len(rows)
    for number, phase in enumerate(PHASES):
        widths = [asdict(r.seconds)[phase] for r in rows]
        bars = axes.barh(labels, widths, left=starts, color=colour(number), label=phase)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
        if phase == PHASES[-1]:
            axes.bar_label(bars, [f"{total:.2f}" for total in starts], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds per edit")
    axes.set_title("Where it goes, at the largest batch")
    axes.margins(x=0.12)
    axes.legend(fontsize=8)


def _draw_seconds(axes: Axes, results: Results) -> None:
    growth = _of_the_model(results)
    edits = [g.history for g in growth]
    curves = (
        ("plain: closed forms", [g.plain for g in growth], "--"),
        ("ours: closed forms", [g.ours.solve for g in growth], "-"),
        ("ours: keys", [g.ours.keys for g in growth], "-"),
        ("ours: write", [g.ours.write for g in growth], "-"),
    )
    _draw_curves(axes, edits, curves)
    batch = growth[0].batch if growth else 0
    axes.set(yscale="log", xlabel="edits so far", ylabel=f"seconds per batch of {batch}")
    axes.set_title("AlphaEdit: time over edits so far")


def _draw_memory(axes: Axes, results: Results) -> None:
    growth = _of_the_model(results)
    edits = [g.history for g in growth]
    plain, ours = zip(*(g.held for g in growth), strict=True) if growth else ((), ())
    curves = (
        ("plain", [count / MEGABYTE for count in plain], "--"),
        ("ours", [count / MEGABYTE for count in ours], "-"),
    )
    _draw_curves(axes, edits, curves)
    axes.set(xlabel="edits so far", ylabel="MB kept between batches")
    axes.set_ylim(bottom=0)
    axes.set_title("AlphaEdit: memory over edits so far")


def _of_the_model(results: Results) -> list[Growth]:
    """The growth of the chosen model, without the wide block's."""
    return [g for g in results.growth if g.name == results.settings["model"]]


def _draw_curves(
    axes: Axes, edits: Sequence[int], curves: Sequence[tuple[str, Sequence[float], str]]
) -> None:
    for number, (label, values, style) in enumerate(curves):
        axes.plot(edits, values, style, color=colour(number), marker=marker(number), label=label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
