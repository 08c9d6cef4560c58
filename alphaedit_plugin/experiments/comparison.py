"""The main job: every base method, plain and projected, over many sequential edits."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.common.console import say
from alphaedit_plugin.config.build import cpu_threads
from alphaedit_plugin.experiments.cells import Cell
from alphaedit_plugin.experiments.comparison_report import report_folder, rich_table, write_report
from alphaedit_plugin.experiments.grid import grid
from alphaedit_plugin.experiments.pool import run_all
from alphaedit_plugin.experiments.study import prepare
from alphaedit_plugin.metrics.evaluation import Evaluation, evaluate

__all__ = ["Cell", "Evaluation", "evaluate", "run_comparison"]

UNFINISHED = "unfinished"  # the folder of what a killed run goes on from


def run_comparison(overrides: Sequence[str], console: Console) -> list[Cell]:
    """Run the grid, show a table, and write the report into ``compare.out``.

    A run that was killed goes on where it was when the same is asked again.

    Args:
        overrides: as on the command line; ``compare.*`` says which bases and how many edits.
        console: where the progress bar and the table go.

    Raises:
        ConfigError: an empty grid, or a setting that does not fit.
        RequestError: a request that cannot be edited; nothing has run then.
    """
    configs = grid(overrides)
    folder = report_folder(configs[0].compare.out)
    with cpu_threads(configs[0].model.threads):
        study = prepare(configs)
        checkpoints = [
            study.checkpoint(job, folder / UNFINISHED / f"{number}.safetensors")
            for number, job in enumerate(study.jobs)
        ]
        cells = run_all(study.jobs, study.lm, study.data, console, checkpoints)
    run = study.run_of(cells, " ".join(["alphaedit compare", *overrides]))
    console.print(rich_table(run.cells, run.before))  # first, as writing can still fail
    write_report(run, folder)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    say(console, f"report: {folder / 'report.md'}")
    return cells
