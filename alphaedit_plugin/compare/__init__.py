"""The main job: every base method, plain and projected, over many sequential edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from alphaedit_plugin.compare.cells import Cell, Shared, grid, run_cell
from alphaedit_plugin.compare.metrics import Evaluation, evaluate
from alphaedit_plugin.compare.report import rich_table, write_report
from alphaedit_plugin.config import EditorConfig, build_method
from alphaedit_plugin.data import EditData, load_data
from alphaedit_plugin.engine import Recipe, check_requests
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.loading import cpu_threads, load_model, recipe_of
from alphaedit_plugin.methods import Projected

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
    if not configs:
        raise ConfigError("compare.bases is empty: name at least one base method")
    folder = _folder(configs[0].compare.out)
    with cpu_threads(configs[0].model.threads):
        before, cells = _run_grid(configs, console)
    write_report(cells, before, " ".join(["alphaedit compare", *overrides]), folder)
    console.print(rich_table(cells, before))
    console.print(f"report: {folder / 'report.md'}", markup=False, soft_wrap=True)
    return cells


def _folder(out: str) -> Path:
    """The report's folder, made now, so that a long run does not end in an error."""
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"compare.out={out} cannot be written: {error.strerror}") from None
    return folder


def _run_grid(configs: Sequence[EditorConfig], console: Console) -> tuple[Evaluation, list[Cell]]:
    """The evaluation of the unedited model, and every cell's run."""
    first = configs[0]
    shared, data = Shared(load_model(first.model)), load_data(first)
    requests = data.requests[: first.compare.edits]
    if len(requests) < first.compare.edits:
        console.print(f"[dim]the data holds {len(requests)} requests: editing all of them[/]")
    recipes = [_recipe(config, shared) for config in configs]
    for recipe in recipes:
        check_requests(shared.view, recipe, requests)
    before = evaluate(shared.view, requests, data.retention)
    return before, _run_all(configs, recipes, shared, data, console)


def _recipe(config: EditorConfig, shared: Shared) -> Recipe:
    method = build_method(config.base)
    moments = shared.moments_of(config)
    if config.null_space:
        projectors = shared.projectors_of(config)
        method = Projected(method, projectors, config.projector.mode, config.projector.l2)
    return recipe_of(shared.view, config, method, moments)


def _run_all(
    configs: Sequence[EditorConfig],
    recipes: Sequence[Recipe],
    shared: Shared,
    data: EditData,
    console: Console,
) -> list[Cell]:
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("edits"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    total = len(configs) * min(configs[0].compare.edits, len(data.requests))
    cells = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)
        for config, recipe in zip(configs, recipes, strict=True):
            name = config.base["name"].upper() + (" + null space" if config.null_space else "")
            progress.update(task, description=name)
            cells.append(
                run_cell(config, recipe, shared, data, lambda n: progress.advance(task, n))
            )
    return cells
