"""What the AlphaEdit paper reports, to stand beside our rows: its numbers, marked as its own."""

from __future__ import annotations

import csv
from importlib.resources import files

from alphaedit_plugin.report.studies import Study
from alphaedit_plugin.report.tables import NOTHING, Field, Table

SOURCE = "Fang et al. 2025 (arXiv:2410.02355), table 1"
COLUMNS = ("efficacy", "generalisation", "specificity", "fluency", "consistency")
DATA = ("counterfact", "zsre")


def paper_rows(data: str) -> list[dict[str, str]]:
    """The published rows on ``counterfact`` or ``zsre``, in the order of the paper."""
    text = files(__package__).joinpath("paper.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [row for row in csv.DictReader(lines) if row["data"] == data]


def paper_table(study: Study) -> Table | None:
    """The published rows on the study's data; ``None`` where the paper has none on it."""
    name = study.setting.data.lower().replace("-", "").replace("_", "")
    data = next((known for known in DATA if known in name), None)
    if data is None:
        return None
    rows = [
        tuple(
            map(Field, [row["model"], row["method"] + " †", *(row[c] or NOTHING for c in COLUMNS)])
        )
        for row in paper_rows(data)
    ]
    caption = (
        f"† Not ours: as published by {SOURCE}, on {data}: 2,000 sequential edits in batches of "
        "100, in per cent (fluency: bits × 100). Ours above are shares (fluency: bits). Other "
        "prompts, seeds and settings: to be compared with care."
    )
    return Table(caption, ("model", "method", *COLUMNS), tuple(rows))
