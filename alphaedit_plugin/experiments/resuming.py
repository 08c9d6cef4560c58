"""How a cell goes on where an earlier run of it was ended.

Its edits are in the session's journal, in the cell's folder. Beside it one small file says what
was measured so far, and for which cell: a journal that was written with other settings, weights,
requests or projectors is not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from alphaedit_plugin.common.cache import hash_of
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.tensor_file import checksum
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.experiments.results import METRICS, Point, converter, read_cell, write_json
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import tokenizer_digest, weights_digest
from alphaedit_plugin.nullspace.projector import Projector

logger = logging.getLogger(__name__)

STATE, JOURNAL = "state.json", "journal"  # in a cell's folder, until it is done
# Settings that no figure depends on: where things are, and how many cells run at once.
ELSEWHERE = (
    "compare.out", "compare.jobs", "compare.bases", "compare.resume", "compare.share_targets",
    "compare.tuned", "compare.tuning", "model.path", "data.options.path",
)  # fmt: skip


@dataclass(frozen=True)
class CellState:
    """What a cell has measured so far; see `Cell`."""

    edits: int = 0
    points: tuple[Point, ...] = ()
    seconds: float = 0.0
    abilities: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def write_state(state: CellState, folder: Path, identity: str) -> None:
    """Raises `ConfigError` where it cannot be written."""
    write_json({"identity": identity, **converter().unstructure(state)}, folder / STATE)


def read_state(folder: Path, identity: str) -> CellState | None:
    """The state of an earlier run of the same cell; ``None`` where there is none to use."""
    try:
        document = json.loads((folder / STATE).read_text(encoding="utf-8"))
        same = document.pop("identity") == identity
        return converter().structure(document, CellState) if same else None
    except FileNotFoundError:
        return None
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        logger.warning("beginning again, as %s cannot be used: %s", folder / STATE, error)
        return None


def edits_made(folder: Path) -> int:
    """How many edits the cell in this folder has made, whatever process runs it."""
    try:
        return int(json.loads((folder / STATE).read_text(encoding="utf-8"))["edits"])
    except (OSError, LookupError, TypeError, ValueError):
        return 0


def is_done(folder: Path, identity: str) -> bool:
    """Whether an earlier run finished the very same cell."""
    try:
        return read_cell(folder / METRICS).identity == identity
    except ConfigError:
        return False


def clear(folder: Path) -> None:
    """Remove what a cell goes on from."""
    shutil.rmtree(folder / JOURNAL, ignore_errors=True)
    (folder / STATE).unlink(missing_ok=True)


def identity_of(
    lm: EditableModel,
    config: ComparisonConfig,
    recipe: Recipe,
    projectors: Mapping[int, Projector],
    data: object,
) -> str:
    """A hash of all that a cell's figures depend on, except the machine.

    Hashing the (unedited) weights of a large model takes seconds.
    """
    moments = {layer: moment.total for layer, moment in recipe.moments.items()}
    bases = {layer: projector.basis for layer, projector in projectors.items()}
    return hash_of(
        {
            "version": VERSION,
            "settings": _settings(config),
            "model": weights_digest(lm) + tokenizer_digest(lm.tokenizer),
            "data": digest_of(data),
            "contexts": list(recipe.contexts.flat),
            "moments": {layer: checksum(tensor) for layer, tensor in moments.items()},
            "projectors": {layer: checksum(tensor) for layer, tensor in bases.items()},
        }
    )


def digest_of(data: object) -> str:
    """A hash of plain data, by its ``repr``."""
    return hashlib.sha256(repr(data).encode()).hexdigest()


def _settings(config: ComparisonConfig) -> dict[str, Any]:
    settings = asdict(config)
    if not config.compare.generation.protocols:  # no figure depends on how nothing is generated
        del settings["compare"]["generate"]
    for name in ELSEWHERE:
        *above, last = name.split(".")
        reduce(getitem, above, settings).pop(last, None)
    return settings
