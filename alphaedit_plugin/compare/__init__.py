"""The main job: every base method, plain and projected, over many sequential edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from alphaedit_plugin.compare.cells import Cell, Shared, evaluate_on
from alphaedit_plugin.compare.grid import grid
from alphaedit_plugin.compare.pool import run_all
from alphaedit_plugin.compare.record import Run, Setting
from alphaedit_plugin.compare.report import report_folder, rich_table, write_report
from alphaedit_plugin.config import EditorConfig
from alphaedit_plugin.console import say
from alphaedit_plugin.data import EditData, load_data
from alphaedit_plugin.data.corpus import corpus_from
from alphaedit_plugin.engine import check_requests
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.loading import check_sources, cpu_threads, load_model
from alphaedit_plugin.metrics import Evaluation, evaluate

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
        run = _run_grid(configs, console, " ".join(["alphaedit compare", *overrides]))
    console.print(rich_table(run.cells, run.before))  # first, as writing can still fail
    write_report(run, folder)
    say(console, f"report: {folder / 'report.md'}")
    return list(run.cells)


def _run_grid(configs: Sequence[EditorConfig], console: Console, command: str) -> Run:
    """The evaluation of the unedited model, and every cell's run."""
    first = configs[0]
    data = with_texts(first, load_data(first))
    for config in configs:
        check_sources(config)
    shared = Shared(load_model(first.model))
    requests = data.requests[: first.compare.edits]
    if len(requests) < first.compare.edits:
        console.print(f"[dim]the data holds {len(requests)} requests: editing all of them[/]")
    jobs = [shared.job_of(config) for config in configs]
    for job in jobs:
        check_requests(shared.view, job.recipe, requests)
    before = evaluate_on(shared.view, data, requests, first.compare.metrics)
    cells = run_all([replace(job, before=before) for job in jobs], shared.view, data, console)
    setting = Setting(
        model=first.model.path or "pocket",
        data=data.name or first.data.path or first.data.name,
        conventions=data.conventions,
        seed=first.seed,
        edits=len(requests),
        batch_size=first.batch_size,
    )
    return Run(setting, before, tuple(cells), command)


def with_texts(config: EditorConfig, data: EditData) -> EditData:
    """``data`` with the held-out text of ``compare.text``, if that is given.

    Raises:
        ConfigError: it cannot be read, or perplexity is asked for without any.
    """
    if config.compare.text is not None:
        corpus = corpus_from(Path(config.compare.text).expanduser())
        texts = tuple(text for text in corpus.texts() if isinstance(text, str))
        data = replace(data, texts=texts)
    if "perplexity" in (config.compare.metrics or ()) and not data.texts:
        raise ConfigError("perplexity needs held-out text: give compare.text=<a text file>")
    return data
