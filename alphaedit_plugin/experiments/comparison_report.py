"""A comparison as a table, a Markdown page and a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from alphaedit_plugin.common.errors import ConfigError, counted
from alphaedit_plugin.common.files import replacing, writable_folder
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.experiments.cells import SECONDS, Cell
from alphaedit_plugin.experiments.results import METRICS, Run, dumps
from alphaedit_plugin.metrics.evaluation import Evaluation
from alphaedit_plugin.nullspace.leakage import rounding_note

COLUMNS = ("efficacy", "generalisation", "specificity", "retention", "score")
PAGE, PICTURE = "report.md", "comparison.png"


def report_folder(out: str) -> Path:
    """The folder of a report, looked at now, so that a long run does not end in an error.

    Raises:
        ConfigError: something in it or on the way to it is in the report's place.
    """
    folder = writable_folder("compare.out", out)
    for name in (PAGE, METRICS, PICTURE):
        if (folder / name).is_dir():
            raise ConfigError(f"compare.out={out} cannot be written: {name} in it is a folder")
    return folder


def figures(evaluation: Evaluation) -> dict[str, float | None]:
    """The values of `COLUMNS`; ``None`` for what the data does not have."""
    general, specific = evaluation.generalisation, evaluation.specificity
    return {
        "efficacy": evaluation.efficacy.success,
        "generalisation": general.success if general else None,
        "specificity": specific.success if specific else None,
        "retention": evaluation.retained,
        "score": evaluation.score,
    }


def rows(cells: Sequence[Cell]) -> list[list[str]]:
    """The table's rows: each base plain, projected, and the gain of the second over the first."""
    lines = []
    for cell in cells:
        plain = next((c for c in cells if c.base == cell.base and not c.null_space), None)
        values = figures(cell.final)
        gain = ""
        if cell.null_space and plain is not None:
            gain = f"{cell.final.score - plain.final.score:+.3f}"
        norm = max(layer.relative_norm for layer in cell.layers.values())
        leak = max(layer.leakage for layer in cell.layers.values())
        lines.append(
            [cell.base.upper(), "null space" if cell.null_space else "plain"]
            + [_number(values[column]) for column in COLUMNS]
            + [gain, f"{norm:.3f}", f"{leak:.1e}", f"{cell.seconds:.1f}"]
        )
    return lines


HEADINGS = ("base", "", *COLUMNS, "gain", "‖Δ‖/‖W‖", "‖ΔU‖/‖Δ‖", "seconds")
SHORT = {"efficacy": "effic.", "generalisation": "gener.", "specificity": "specif.",
         "retention": "retent."}  # fmt: skip


def rich_table(cells: Sequence[Cell], before: Evaluation) -> Table:
    """For a terminal of 80 columns: without norms and times, which the page has."""
    shown = [*range(2, len(COLUMNS) + 3), HEADINGS.index("‖ΔU‖/‖Δ‖")]
    table = Table(
        title=f"After {_edits(cells)}", title_justify="left",
        box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("base", no_wrap=True)
    for number in shown:
        heading = SHORT.get(HEADINGS[number], HEADINGS[number])
        table.add_column(heading, justify="right", no_wrap=True)
    values = figures(before)
    table.add_row("unedited", *(_number(values[c]) for c in COLUMNS), style="dim", end_section=True)
    for line, cell in zip(rows(cells), cells, strict=True):
        name = "  + null space" if cell.null_space else line[0]
        style = "bold" if cell.null_space else ""
        table.add_row(name, *(line[n] for n in shown), style=style, end_section=cell.null_space)
    return table


def markdown(cells: Sequence[Cell], before: Evaluation, command: str) -> str:
    """The report page."""
    values = figures(before)
    table = [list(HEADINGS), ["---"] * 2 + ["--:"] * (len(HEADINGS) - 2)]
    table.append(["unedited", "", *(_number(values[c]) for c in COLUMNS), *[""] * 4])
    lines = ["| " + " | ".join(row) + " |" for row in table + rows(cells)]
    return "\n".join(
        [
            f"# Plain and null-space editing after {_edits(cells)}",
            "",
            f"`{command}` (alphaedit-plugin {VERSION})",
            "",
            *lines,
            "",
            f"![scores, and metrics over the number of edits]({PICTURE})",
            "",
            *_notes(cells),
            "",
            "## Settings",
            "",
            *(
                f"- {cell.base.upper()}{' + null space' if cell.null_space else ''}: "
                + ", ".join(f"{key} {value}" for key, value in cell.settings.items())
                for cell in cells
            ),
            "",
        ]
    )


def _notes(cells: Sequence[Cell]) -> list[str]:
    """What the columns mean, what was gained, and where nothing was."""
    notes = [
        "Efficacy, generalisation and specificity: share of prompts (edited, rephrased, "
        "neighbouring) where the wanted answer is the likelier one. Retention: share of untouched "
        "facts still answered right. Score: their harmonic mean. ‖ΔU‖/‖Δ‖: the share of the "
        "accumulated delta that old keys see; rounding level when projected. " + SECONDS,
        "",
        *_rounding(cells),
    ]
    for cell in cells:
        plain = next((c for c in cells if c.base == cell.base and not c.null_space), None)
        if not cell.null_space or plain is None:
            continue
        ours, theirs = figures(cell.final), figures(plain.final)
        changes = ", ".join(
            f"{column} {ours[column] - theirs[column]:+.3f}"  # type: ignore[operator]
            for column in COLUMNS[:-1]
            if ours[column] is not None
        )
        gained = cell.final.score > plain.final.score
        notes.append(
            f"- {cell.base.upper()}: the null space {'gains' if gained else 'does not gain'} "
            f"({plain.final.score:.3f} → {cell.final.score:.3f}): {changes}."
        )
    return notes


def _rounding(cells: Sequence[Cell]) -> list[str]:
    """What the projector leaves, where the weights' rounding hides it."""
    layers = [layer for cell in cells if cell.null_space for layer in cell.layers.values()]
    shares = [(layer.leakage, layer.unrounded_leakage) for layer in layers]
    note = rounding_note(shares, str(cells[0].settings.get("dtype", "float32")))
    return [] if note is None else [f"{note}.", ""]


def write_report(run: Run, folder: Path) -> None:
    """Write ``report.md``, ``metrics.json`` and the picture into ``folder``.

    Raises:
        AlphaEditError: a file cannot be written; the message says which and why.
    """
    from alphaedit_plugin.experiments.comparison_plots import (
        plot_comparison,  # matplotlib is slow to import
    )

    write_metrics(run, folder)
    with replacing(folder / PAGE) as unfinished:
        page = markdown(run.cells, run.before, run.command)
        unfinished.write_text(page, encoding="utf-8")
    plot_comparison(run.cells, folder / PICTURE)


def write_metrics(run: Run, folder: Path) -> None:
    """Write ``metrics.json`` alone, as a cell of a sweep does.

    Raises:
        AlphaEditError: it cannot be written; the message says why.
    """
    with replacing(folder / METRICS) as unfinished:
        unfinished.write_text(dumps(run), encoding="utf-8")


def _edits(cells: Sequence[Cell]) -> str:
    return counted(cells[0].points[-1].edits, "sequential edit")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
