"""``alphaedit compare``: plain against projected."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.commands.base import Command, hide_foreign_bars


def _run(overrides: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.compare import run_comparison

    hide_foreign_bars()
    run_comparison(overrides, console)


COMMAND = Command(
    "compare",
    "run every base method plain and projected, and report the gain",
    "Applies compare.edits sequential edits per cell and writes report.md, metrics.json "
    "and a plot to compare.out.",
    ("alphaedit compare", "alphaedit compare compare.bases=[memit,rect] compare.edits=100"),
    _run,
)
