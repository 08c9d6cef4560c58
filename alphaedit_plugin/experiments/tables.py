"""The tables of a report, and how they are written: terminal, Markdown, LaTeX (HTML: the page)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from rich import box
from rich.table import Table as RichTable

from alphaedit_plugin.common.console import plain_table
from alphaedit_plugin.common.errors import counted
from alphaedit_plugin.experiments.bootstrap import Gain
from alphaedit_plugin.experiments.studies import COLUMNS, Row, Spread, Study
from alphaedit_plugin.metrics.base import lower_is_better
from alphaedit_plugin.nullspace.leakage import rounding_note

NOTHING = "–"
JOINED = "\u00a0"  # a space where no line is broken
NORM, LEAKAGE, SECONDS = "‖Δ‖/‖W‖", "‖ΔU‖/‖Δ‖", "seconds"
MEANING = (
    "Efficacy, generalisation, specificity: share of edited, rephrased and neighbouring prompts "
    "where the wanted answer is the likelier one. Retention: share of untouched facts still "
    "answered right. Score: their harmonic mean. ‖ΔU‖/‖Δ‖: the share of the accumulated delta "
    "that old keys see; rounding level when projected."
)
TIMES = (
    "Seconds do not compare methods: a target value is searched by the first cell that needs it, "
    "or was found in the cache, and cells may run side by side "
    "(compare.share_targets=false compare.jobs=1 for neither)."
)
# Headings in a terminal.
SHORT: Mapping[str, str] = MappingProxyType(
    {"efficacy": "effic.", "generalisation": "gener.", "specificity": "specif.",
     "retention": "retent."}
)  # fmt: skip
BOOTSTRAP = "with a 95 % bootstrap interval over seeds, edits and facts"


@dataclass(frozen=True)
class Field:
    """One field of a table; ``best`` ones are bold."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows, and how to read it.
        head: the headings; the first ``words`` columns are words, the others numbers.
        rows: fields; a row of a new base begins a group.
        words: how many columns are words.
        prose: whether the fields are texts that somebody else wrote, and break into lines.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Field, ...], ...]
    words: int = 2
    prose: bool = False


Gains = Mapping[int, Mapping[str, Gain]]  # by the row's number in the study


def main_table(study: Study, gains: Gains) -> Table:
    """The main columns after all edits, the gain in score, norms, leakage and time."""
    names = list(study.main)
    best = {name: _best_of(study.rows, COLUMNS[name]) for name in names}
    before = [number(study.before.get(COLUMNS[name])) for name in names]
    rows = [tuple(map(Field, ["unedited", "", *before, "", "", "", ""]))]
    for place, row in enumerate(study.rows):
        fields = [Field(row.base.upper()), Field(row.side)]
        fields += [_field(row.spread(COLUMNS[name]), best[name]) for name in names]
        gain = gains.get(place, {}).get("score")
        fields.append(Field("" if gain is None else interval(gain)))
        rows.append((*fields, *_costs(row)))
    setting = study.setting
    data = setting.data + (f" ({setting.conventions})" if setting.conventions else "")
    seeds = ", ".join(map(str, study.seeds))
    caption = [
        f"{setting.model} after {counted(setting.edits, 'sequential edit')} in batches of "
        f"{setting.batch_size}; data: {data}.",
        f"Mean ± sd over seeds {seeds}." if len(study.seeds) > 1 else f"Seed {seeds}.",
        f"Best in bold. Gain: of the score over the plain base, {BOOTSTRAP}.",
        MEANING, *_rounding(study), TIMES,
    ]  # fmt: skip
    head = ("base", "", *names, "gain", NORM, LEAKAGE, SECONDS)
    return Table(" ".join(caption), head, tuple(rows))


def gain_table(study: Study, gains: Gains) -> Table:
    """The gain of every projected row in every main column."""
    rows = []
    for place, row in enumerate(study.rows):
        if place in gains:
            columns = [gains[place].get(name) for name in study.main]
            fields = [Field(interval(g), g.sure) if g else Field(NOTHING) for g in columns]
            rows.append((Field(row.base.upper()), Field(row.side), *fields))
    caption = (
        f"Gain of each projected base over its plain self, {BOOTSTRAP}. Bold where 0 is outside."
    )
    return Table(caption, ("base", "", *study.main), tuple(rows))


def full_table(study: Study) -> Table:
    """Every other column: a line each, with a column per row of the study."""
    rows = []
    for column in study.others:
        best = _best_of(study.rows, column)
        fields = [_field(row.spread(column), best) for row in study.rows]
        rows.append((Field(column), Field(number(study.before.get(column))), *fields))
    head = ("metric", "unedited", *(row.name for row in study.rows))
    return Table("All other metrics after all edits. Best in bold.", head, tuple(rows), words=1)


def abilities_table(study: Study) -> Table:
    """General abilities after all edits."""
    rows = []
    for task in study.abilities:
        curves = [row.ability(task) for row in study.rows]
        before = next((curve[0].mean for curve in curves if 0 in curve), None)
        last = [curve[max(curve)] if curve else None for curve in curves]
        best = _best(last, lower=False)
        rows.append((Field(task), Field(number(before)), *(_field(s, best) for s in last)))
    head = ("task", "unedited", *(row.name for row in study.rows))
    caption = "General abilities after all edits, by lm-evaluation-harness. Best in bold."
    return Table(caption, head, tuple(rows), words=1)


def number(value: float | None) -> str:
    """Three digits after the point, fewer for large numbers."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def interval(gain: Gain) -> str:
    """``+0.064 [+0.041, +0.088]``, which breaks before the bracket only."""
    return f"{gain.value:+.3f} [{gain.low:+.3f},{JOINED}{gain.high:+.3f}]"


def terminal(table: Table, title: str) -> RichTable:
    """The main table in 80 columns: means alone, without norms and times."""
    shown = [n for n, text in enumerate(table.head) if n > 1 and text not in (NORM, SECONDS)]
    drawn = RichTable(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, header_style="bold",
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    drawn.add_column(table.head[0], no_wrap=True)
    for n in shown:
        drawn.add_column(SHORT.get(table.head[n], table.head[n]), justify="right", no_wrap=True)
    bases = [row[0].text for row in table.rows]
    for row, following in zip(table.rows, [*bases[1:], ""], strict=True):
        base, side = row[0].text, row[1].text
        projected = side.startswith("null space")
        name = f"  + {side}" if projected else base + side.removeprefix("plain")
        means = [row[n].text.split()[0] if row[n].text else "" for n in shown]
        style = "bold" if projected else "" if side else "dim"
        drawn.add_row(name, *means, style=style, end_section=base != following)
    return drawn


def plain(table: Table) -> RichTable:
    """All of a table."""
    headings = [SHORT.get(text, text) for text in table.head]
    drawn = plain_table(headings[: table.words], headings[table.words :])
    for row in table.rows:
        drawn.add_row(*(field.text for field in row), style="bold" if row[0].best else "")
    return drawn


def markdown(table: Table) -> str:
    """With the caption below."""
    bars = ["---"] * table.words + ["--:"] * (len(table.head) - table.words)
    fields = [[_verbatim(f) if table.prose else f for f in row] for row in table.rows]
    rows = [[f"**{f.text}**" if f.best else f.text for f in row] for row in fields]
    head, *escaped = [[text.replace("|", "\\|") for text in row] for row in [table.head, *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in [head, bars, *escaped]]
    return "\n".join([*lines, "", f"*{table.caption}*"])


def _verbatim(field: Field) -> Field:
    """A field whose text means nothing to Markdown."""
    return replace(field, text=re.sub(r"([\\`*_<>\[\]#~])", r"\\\1", field.text))


def latex(table: Table) -> str:
    """A ``table*`` for the ``booktabs`` and ``graphicx`` packages."""
    columns = "l" * table.words + "r" * (len(table.head) - table.words)
    lines = [
        r"\begin{table*}", r"\centering\small", rf"\caption{{{_tex(table.caption)}}}",
        r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
        " & ".join(_tex(text) for text in table.head) + r" \\", r"\midrule",
    ]  # fmt: skip
    for row in table.rows:
        fields = [rf"\textbf{{{_tex(f.text)}}}" if f.best else _tex(f.text) for f in row]
        lines.append(" & ".join(fields) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table*}"])


TEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", JOINED: "~", "±": r"$\pm$", "‖": r"$\|$", "Δ": r"$\Delta$", "λ": r"$\lambda$",
})  # fmt: skip


def _tex(text: str) -> str:
    return text.translate(TEX)


def _field(spread: Spread | None, best: Callable[[float], bool]) -> Field:
    """A mean, with its deviation where there are several seeds."""
    if spread is None:
        return Field(NOTHING)
    text = number(spread.mean)
    if spread.deviation is not None:
        text += f"{JOINED}±{JOINED}{number(spread.deviation)}"
    return Field(text, best(spread.mean))


def _best_of(rows: Sequence[Row], column: str) -> Callable[[float], bool]:
    return _best([row.spread(column) for row in rows], lower_is_better(column))


def _best(spreads: Sequence[Spread | None], lower: bool) -> Callable[[float], bool]:
    """Whether a value, as it is printed, is the best of those that differ."""
    means = [s.mean for s in spreads if s is not None and not math.isnan(s.mean)]
    printed = {number(mean) for mean in means}
    if len(printed) < 2:
        return lambda _: False
    top = number(min(means) if lower else max(means))
    return lambda value: number(value) == top


def _costs(row: Row) -> list[Field]:
    """The largest norm and leakage of any layer and seed, and the mean time."""
    layers = [layer for cell in row.cells.values() for layer in cell.layers.values()]
    norm = max(layer.relative_norm for layer in layers)
    leakage = max(layer.leakage for layer in layers)
    seconds = sum(cell.seconds for cell in row.cells.values()) / len(row.cells)
    return [Field(f"{norm:.3f}"), Field(f"{leakage:.1e}"), Field(f"{seconds:.1f}")]


def _rounding(study: Study) -> list[str]:
    """What the projector leaves, where the weights' rounding hides it."""
    projected = [cell for cell in study.cells if cell.null_space]
    shares = [(r.leakage, r.unrounded_leakage) for c in projected for r in c.layers.values()]
    dtype = str(study.cells[0].settings.get("dtype", "float32"))
    note = rounding_note(shares, dtype)
    return [] if note is None else [f"{note}."]
