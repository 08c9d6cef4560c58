"""``alphaedit report``: tables and pictures of finished comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alphaedit_plugin.cli.base import COMMANDS, Command
from alphaedit_plugin.common.errors import ConfigError

OUT = "runs/report"


def _run(words: Sequence[str], console: Console) -> None:
    runs = [word for word in words if "=" not in word]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    unknown = [key for key in settings if key != "out"]
    if unknown:
        raise ConfigError(f"report knows no {unknown[0]!r}: it takes folders of runs, and out=…")
    if not runs:
        raise ConfigError("report takes folders of runs: alphaedit report runs/compare")
    from alphaedit_plugin.experiments.report import run_report

    run_report([Path(run).expanduser() for run in runs], settings.get("out", OUT), console)


COMMANDS.register(
    "report",
    Command(
        "put finished comparisons together: one page, tables, pictures",
        "Reads the metrics.json of each run, also in the folders below, and writes report.html "
        f"(one file, pictures in it), report.md and report.tex to out={OUT}. Runs that differ only "
        "in their seed or cells become one table: mean and standard deviation over seeds, and the "
        "gain of each projected base with a bootstrap interval.",
        ("alphaedit report runs/compare", "alphaedit report runs/seed-* out=runs/paper"),
        _run,
        usage="RUNS… [out=FOLDER]",
    ),
)
