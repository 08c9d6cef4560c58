"""A comparison's ``metrics.json``: all that was measured, enough for every table and picture.

One JSON object::

    schema    2; another number is of another layout
    version   of alphaedit-plugin
    command   as it was typed
    setting   model, data, conventions, seed, edits, batch_size
    before    the unedited model: columns → reading
    cells     base, null_space, settings, seconds, layers, shift, abilities (by edits so far, 0
              before any), final (numbers for people), and
              points: edits so far, norms per layer, evaluation: columns → reading

A reading has its ``value`` (``null`` where it is no number). Those of ``before``, of a cell's last
point, and of the columns that survival is told by everywhere, also have what they are made of, per
``unit`` (a request or an untouched fact, in order): ``hits``, a row of 0 and 1, or ``totals`` and
``counts``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.experiments.cells import Cell, Point
from alphaedit_plugin.experiments.plain import converter
from alphaedit_plugin.metrics.evaluation import Evaluation

SCHEMA = 2
METRICS = "metrics.json"


@dataclass(frozen=True)
class Setting:
    """What the cells of a run have in common.

    Attributes:
        model: folder or hub name, or ``pocket``.
        data: which requests, for people.
        conventions: how the data was read, where there is a choice.
        seed: of the run.
        edits: sequential edits per cell.
        batch_size: of them at a time.
    """

    model: str
    data: str
    conventions: str
    seed: int
    edits: int
    batch_size: int


@dataclass(frozen=True)
class Run:
    """One run of ``alphaedit compare``.

    Attributes:
        setting: what its cells have in common.
        before: the unedited model.
        cells: what was run.
        command: as it was typed.
        version: of alphaedit-plugin.
    """

    setting: Setting
    before: Evaluation
    cells: tuple[Cell, ...]
    command: str
    version: str = VERSION


def dumps(run: Run) -> str:
    """The text of ``metrics.json``."""
    cells = tuple(replace(cell, points=_brief(cell.points)) for cell in run.cells)
    document = {"schema": SCHEMA} | converter().unstructure(replace(run, cells=cells))
    for cell, entry in zip(cells, document["cells"], strict=True):
        entry["final"] = cell.final.summary  # for people; not read
    return json.dumps(_finite(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_run(path: Path) -> Run:
    """Read ``metrics.json``, or the one in a folder, and check what is in it.

    Raises:
        ConfigError: it is missing, damaged, or of another layout; the message names it.
    """
    file = path / METRICS if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"no {file}: give folders that alphaedit compare has written (compare.out)"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{file} is damaged: it is no JSON; run its comparison again") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise ConfigError(
            f"{file} has layout {schema}, this version reads {SCHEMA}: run its comparison again"
        )
    try:
        run = converter().structure(document, Run)
        if not run.cells or not all(cell.points for cell in run.cells):
            raise ValueError("a cell or its points are missing")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{file} is damaged ({type(error).__name__}: {error}): run its comparison again"
        ) from None
    return run


def _brief(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """All but the last without what their readings are made of; see `Evaluation.brief`."""
    return (*(replace(p, evaluation=p.evaluation.brief()) for p in points[:-1]), *points[-1:])


def _finite(part: Any) -> Any:
    """``part`` with ``None`` for what is no number, of which JSON knows nothing."""
    if isinstance(part, dict):
        return {str(key): _finite(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_finite(value) for value in part]
    return None if isinstance(part, float) and not math.isfinite(part) else part
