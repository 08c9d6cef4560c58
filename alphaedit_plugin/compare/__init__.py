"""The main job: every base method, plain and projected, over many sequential edits."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.compare.cells import Cell, Shared
from alphaedit_plugin.compare.grid import grid
from alphaedit_plugin.compare.metrics import Evaluation, evaluate
from alphaedit_plugin.compare.pool import run_all
from alphaedit_plugin.compare.report import report_folder, rich_table, write_report
from alphaedit_plugin.config import EditorConfig
from alphaedit_plugin.console import say
from alphaedit_plugin.data import load_data
from alphaedit_plugin.engine import check_requests
from alphaedit_plugin.loading import check_sources, cpu_threads, load_model

__all__ = ["Cell", "Evaluation", "evaluate", "run_comparison"]


def run_comparison(overrides: Sequence[str], console: Console) -> list[Cell]:
    """Run the grid, show a table, and write the report into ``compare.out``.

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
        before, cells = _run_grid(configs, console)
    console.print(rich_table(cells, before))  # first, as writing can still fail
    write_report(cells, before, " ".join(["alphaedit compare", *overrides]), folder)
    say(console, f"report: {folder / 'report.md'}")
    return cells


def _run_grid(configs: Sequence[EditorConfig], console: Console) -> tuple[Evaluation, list[Cell]]:
    """The evaluation of the unedited model, and every cell's run."""
    first = configs[0]
    data = load_data(first)
    for config in configs:
        check_sources(config)
    shared = Shared(load_model(first.model))
    requests = data.requests[: first.compare.edits]
    if len(requests) < first.compare.edits:
        console.print(f"[dim]the data holds {len(requests)} requests: editing all of them[/]")
    jobs = [shared.job_of(config) for config in configs]
    for job in jobs:
        check_requests(shared.view, job.recipe, requests)
    before = evaluate(shared.view, requests, data.retention)
    return before, run_all(jobs, shared.view, data, console)
