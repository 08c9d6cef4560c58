"""The AlphaEdit paper's rows, marked as its own, beside ours: like beside like."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from importlib.resources import files

from alphaedit_plugin.experiments.studies import Spread, Study
from alphaedit_plugin.experiments.tables import JOINED, NOTHING, Field, Table

SOURCE = "Fang et al. 2025 (arXiv:2410.02355), table 1"
MARK = " †"
PERCENT = 100.0  # in which the paper has all of its columns; its fluency is bits × 100
# The paper's columns, and what they are among ours, by data: on zsRE they are token accuracies.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "counterfact": {
        "efficacy": "efficacy.success",
        "generalisation": "generalisation.success",
        "specificity": "specificity.success",
        "fluency": "fluency",
        "consistency": "consistency",
    },
    "zsre": {
        "efficacy": "rewrite_acc",
        "generalisation": "rephrase_acc",
        "specificity": "neighbourhood_acc",
    },
}
ALIKE = {
    "counterfact": "Shares of prompts whose wanted answer is the likelier one.",
    "zsre": "Shares of tokens that are predicted, the ones before them given (the main table's are "
    "of whole answers); the paper edits in the right answer, as data.target=answers does.",
}


def paper_rows(data: str) -> list[dict[str, str]]:
    """The published rows on ``counterfact`` or ``zsre``, in the order of the paper."""
    text = files(__package__).joinpath("paper.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [row for row in csv.DictReader(lines) if row["data"] == data]


def paper_table(study: Study) -> Table | None:
    """The study's rows and the published ones, in the paper's columns and units.

    ``None`` where the paper has none on the study's data.
    """
    name = study.setting.data.lower().replace("-", "").replace("_", "")
    data = next((known for known in COLUMNS if known in name), None)
    if data is None:
        return None
    columns, model = COLUMNS[data], study.setting.model
    before = study.before.before.summary
    unedited = [Spread.of([before[c]] if c in before else []) for c in columns.values()]
    rows = [_row(model, "unedited", map(_ours, unedited))]
    rows += [
        _row(model, entry.name, (_ours(entry.spread(column)) for column in columns.values()))
        for entry in study.entries
    ]
    rows += [
        _row(row["model"], row["method"] + MARK, (_theirs(row, column) for column in columns))
        for row in paper_rows(data)
    ]
    return Table(_caption(study, data), ("model", "method", *columns), tuple(rows))


def _caption(study: Study, data: str) -> str:
    columns = COLUMNS[data].items()
    units = " (fluency: bits × 100)" if "fluency" in COLUMNS[data] else ""
    same = ", ".join(f"{column} is {ours}" for column, ours in columns if column != ours)
    conventions = f"{study.setting.conventions}; " if study.setting.conventions else ""
    return (
        f"Beside the paper, on {data}, in percent{units}. {ALIKE[data]} Ours: {conventions}{same}; "
        f"± over seeds.{MARK} Not ours: as published by {SOURCE}, 2,000 sequential edits in "
        "batches of 100, ± as published. Other prompts, seeds and settings: to be compared with "
        "care."
    )


def _row(model: str, method: str, numbers: Iterable[str]) -> tuple[Field, ...]:
    return tuple(map(Field, (model, method, *numbers)))


def _ours(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    deviation = spread.deviation
    return _beside(
        f"{PERCENT * spread.mean:.2f}",
        "" if deviation is None else f"{PERCENT * deviation:.2f}",
    )


def _theirs(row: Mapping[str, str], column: str) -> str:
    return _beside(row[column] or NOTHING, row[f"{column}_sd"])


def _beside(mean: str, deviation: str) -> str:
    return f"{mean}{JOINED}±{JOINED}{deviation}" if deviation else mean
