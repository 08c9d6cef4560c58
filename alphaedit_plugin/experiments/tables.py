"""Tables, once, and in three ways of writing: Markdown, LaTeX and (by the page) HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from alphaedit_plugin.common.errors import counted
from alphaedit_plugin.experiments.bootstrap import Gain
from alphaedit_plugin.experiments.cells import SECONDS
from alphaedit_plugin.experiments.studies import COLUMNS, Entry, Spread, Study
from alphaedit_plugin.metrics.base import lower_is_better

NOTHING = "–"
JOINED = "\u00a0"  # a space where no line is broken


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
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Field, ...], ...]
    words: int = 2


Gains = Mapping[int, Mapping[str, Gain]]  # by the entry's place in the study


def main_table(study: Study, gains: Gains) -> Table:
    """The main columns after all edits, the gain in score, norms, leakage and time."""
    entries, names = study.entries, list(study.main)
    best = {name: _best_of(entries, COLUMNS[name]) for name in names}
    before = study.before.before.summary
    rows = [
        [Field("unedited"), Field("")]
        + [Field(number(before.get(COLUMNS[name]))) for name in names]
        + [Field("")] * 4
    ]
    for place, entry in enumerate(entries):
        row = [Field(entry.base.upper()), Field(entry.side)]
        for name in names:
            row.append(_field(entry.spread(COLUMNS[name]), best[name]))
        gain = gains.get(place, {}).get("score")
        row.append(Field("" if gain is None else interval(gain)))
        rows.append([*row, *_costs(entry)])
    edits = counted(study.setting.edits, "sequential edit")
    caption = (
        f"{study.setting.model} after {edits} in batches of "
        f"{study.setting.batch_size}; data: {_data(study)}. {_seeds(study)} Best in bold. Gain: of "
        "the score over the plain base, with a 95 % bootstrap interval over seeds, edits and "
        "facts. " + SECONDS
    )
    head = ("base", "", *names, "gain", "‖Δ‖/‖W‖", "‖ΔU‖/‖Δ‖", "seconds")
    return Table(caption, head, tuple(map(tuple, rows)))


def gain_table(study: Study, gains: Gains) -> Table:
    """The gain of every projected entry in every main column."""
    rows = []
    for place, entry in enumerate(study.entries):
        if place in gains:
            fields = [gains[place].get(name) for name in study.main]
            row = [Field(entry.base.upper()), Field(entry.side)]
            row += [Field(interval(g), g.sure) if g else Field(NOTHING) for g in fields]
            rows.append(tuple(row))
    caption = (
        "Gain of each projected base over its plain self, with a 95 % bootstrap interval over "
        "seeds, edits and facts. Bold where 0 is outside."
    )
    return Table(caption, ("base", "", *study.main), tuple(rows))


def full_table(study: Study) -> Table:
    """Every other column: a row each, a column per entry."""
    entries = study.entries
    rows = []
    for column in study.others:
        best = _best_of(entries, column)
        before = study.before.before.summary.get(column)
        fields = [_field(entry.spread(column), best) for entry in entries]
        rows.append((Field(column), Field(number(before)), *fields))
    head = ("metric", "unedited", *(entry.name for entry in entries))
    return Table("All other metrics after all edits. Best in bold.", head, tuple(rows), words=1)


def abilities_table(study: Study) -> Table | None:
    """General abilities after all edits; ``None`` where none were measured."""
    rows = []
    for task in study.abilities:
        curves = [entry.ability(task) for entry in study.entries]
        before = next((curve[0].mean for curve in curves if 0 in curve), None)
        last = [curve[max(curve)] if curve else None for curve in curves]
        best = _best(last, lower=False)
        rows.append((Field(task), Field(number(before)), *(_field(s, best) for s in last)))
    if not rows:
        return None
    head = ("task", "unedited", *(entry.name for entry in study.entries))
    caption = "General abilities after all edits, by lm-evaluation-harness. Best in bold."
    return Table(caption, head, tuple(rows), words=1)


def number(value: float | None) -> str:
    """Three digits behind the point, fewer for large numbers."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def interval(gain: Gain) -> str:
    """``+0.064 [+0.041, +0.088]``, which breaks before the bracket only."""
    return f"{gain.value:+.3f} [{gain.low:+.3f},{JOINED}{gain.high:+.3f}]"


def markdown(table: Table) -> str:
    """With the caption below."""
    bars = ["---"] * table.words + ["--:"] * (len(table.head) - table.words)
    rows = [[f"**{f.text}**" if f.best else f.text for f in row] for row in table.rows]
    escaped = [[text.replace("|", "\\|") for text in row] for row in [list(table.head), *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in [escaped[0], bars, *escaped[1:]]]
    return "\n".join([*lines, "", f"*{table.caption}*"])


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


TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", JOINED: "~", "±": r"$\pm$", "‖": r"$\|$", "Δ": r"$\Delta$",
    "λ": r"$\lambda$", "†": r"$\dagger$",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def _field(spread: Spread | None, best: Callable[[float], bool]) -> Field:
    """A mean, with its deviation where there are several seeds."""
    if spread is None:
        return Field(NOTHING)
    text = number(spread.mean)
    if spread.deviation is not None:
        text += f"{JOINED}±{JOINED}{number(spread.deviation)}"
    return Field(text, best(spread.mean))


def _best_of(entries: Sequence[Entry], column: str) -> Callable[[float], bool]:
    return _best([entry.spread(column) for entry in entries], lower_is_better(column))


def _best(spreads: Sequence[Spread | None], lower: bool) -> Callable[[float], bool]:
    """Whether a value, as it is printed, is the best of those that differ."""
    means = [s.mean for s in spreads if s is not None and not math.isnan(s.mean)]
    printed = {number(mean) for mean in means}
    if len(printed) < 2:
        return lambda _: False
    top = number(min(means) if lower else max(means))
    return lambda value: number(value) == top


def _costs(entry: Entry) -> list[Field]:
    """The largest norm and leakage of any layer and seed, and the mean time."""
    layers = [layer for cell in entry.cells.values() for layer in cell.layers.values()]
    seconds = Spread.of([cell.seconds for cell in entry.cells.values()])
    if not layers or seconds is None:
        return [Field(NOTHING)] * 3
    norm = max(layer.relative_norm for layer in layers)
    leak = max(layer.leakage for layer in layers)
    return [Field(f"{norm:.3f}"), Field(f"{leak:.1e}"), Field(f"{seconds.mean:.1f}")]


def _data(study: Study) -> str:
    setting = study.setting
    return setting.data + (f" ({setting.conventions})" if setting.conventions else "")


def _seeds(study: Study) -> str:
    seeds = ", ".join(map(str, study.seeds))
    return f"Mean ± sd over seeds {seeds}." if len(study.seeds) > 1 else f"Seed {seeds}."
