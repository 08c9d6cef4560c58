"""What a cell measured, and its ``metrics.json``: enough for every table and picture of a report.

One JSON object: the fields of `Cell` under their names, ``schema``, and ``final`` (numbers for
people; not read back). An evaluation is columns → reading, and a reading has its ``value``
(``null`` where it is not finite). Those of ``before``, of the last point, and of the columns that
survival is read from everywhere, also have what they are made of, per ``unit`` (a request or an
untouched fact, in order): ``hits``, a row of 0 and 1, or ``totals`` and ``counts``.

What was generated is beside it in ``texts.json``: ``texts``, a list of `GeneratedText`, enough to
judge again without the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cattrs import Converter

from alphaedit_plugin.common import serialize
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import replacing
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.metrics.base import MetricValue
from alphaedit_plugin.metrics.evaluation import SURVIVAL, Evaluation
from alphaedit_plugin.metrics.generated import GeneratedText
from alphaedit_plugin.metrics.shift import Shift

SCHEMA = 3
METRICS, TEXTS = "metrics.json", "texts.json"
UNREAD = ("schema", "final")  # what the file has besides a cell's fields


@dataclass(frozen=True)
class Setting:
    """What cells must share to be compared.

    Attributes:
        model: folder or hub name, or ``pocket``.
        data: which requests, for people.
        conventions: how the data was read, where there is a choice.
        requests: a digest of the requests and the untouched facts.
    """

    model: str
    data: str
    conventions: str
    seed: int
    edits: int
    batch_size: int
    requests: str


@dataclass(frozen=True)
class Point:
    """An evaluation on the way.

    Attributes:
        edits: made so far.
        evaluation: of these edits, and of what must survive them.
        norms: per layer ``‖Δ‖ / ‖W0‖`` of the accumulated delta.
    """

    edits: int
    evaluation: Evaluation
    norms: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerReport:
    """What a run left in one layer.

    Attributes:
        relative_norm: ``‖Δ‖ / ‖W0‖`` of the accumulated delta.
        leakage: ``‖Δ U‖ / ‖Δ‖``: what old keys see of it; measured for plain cells, too.
        unrounded_leakage: the same before the sum of deltas was rounded into the weight.
    """

    relative_norm: float
    leakage: float
    unrounded_leakage: float
    null_dimension: int
    d_in: int


@dataclass(frozen=True)
class Cell:
    """One base method, plain or projected, after its run.

    Attributes:
        settings: what it was run with, for the report.
        before: the unedited model.
        points: evaluations, the last one after all edits.
        layers: what was left in each layer.
        seconds: spent editing, without evaluation.
        shift: how far hidden states of other prompts moved.
        abilities: what `Abilities.measure` gave, by edits so far (0: before any).
        asked: `prompt_digest` of every edit and untouched fact.
        command: as typed.
        identity: a hash of what the figures depend on.
        texts: what was generated; in a file of its own.
    """

    setting: Setting
    base: str
    null_space: bool
    settings: Mapping[str, object]
    before: Evaluation
    points: tuple[Point, ...]
    layers: Mapping[int, LayerReport]
    seconds: float
    shift: Shift | None = None
    abilities: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    command: str = ""
    identity: str = ""
    version: str = VERSION
    texts: tuple[GeneratedText, ...] = ()

    @property
    def final(self) -> Evaluation:
        """After all edits."""
        return self.points[-1].evaluation


def write_cell(cell: Cell, folder: Path) -> None:
    """Write ``metrics.json``, and before it ``texts.json`` where texts were generated.

    Raises:
        ConfigError: one cannot be written.
    """
    document = converter().unstructure(cell)
    texts, final = document.pop("texts"), dict(cell.final.summary)
    if texts:
        write_json({"schema": SCHEMA, "identity": cell.identity, "texts": texts}, folder / TEXTS)
    else:
        (folder / TEXTS).unlink(missing_ok=True)
    write_json({"schema": SCHEMA, **document, "final": final}, folder / METRICS)


def read_cell(path: Path) -> Cell:
    """Read ``metrics.json``, or the one in a folder, and the texts beside it.

    Raises:
        ConfigError: it is missing, damaged, or of another version.
    """
    file = path / METRICS if path.is_dir() else path
    document = _read(file)
    texts = _read(file.parent / TEXTS) if (file.parent / TEXTS).is_file() else {}
    try:
        fields = {name: value for name, value in document.items() if name not in UNREAD}
        same = texts.get("identity") == document["identity"]  # else a run ended between the two
        cell = converter().structure({**fields, "texts": texts["texts"] if same else []}, Cell)
        if not cell.points:
            raise ValueError("no points")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{file} is damaged ({type(error).__name__}: {error}): run its comparison again"
        ) from None
    return cell


def _read(file: Path) -> dict[str, Any]:
    """The JSON object in a file of this version."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"no {file}: give folders that alphaedit compare has written (compare.out)"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{file} is damaged: it is not JSON; run its comparison again") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise ConfigError(
            f"{file} has schema {schema}, this version reads {SCHEMA}: run its comparison again"
        )
    return dict(document)


def write_json(document: Mapping[str, Any], path: Path) -> None:
    """Write a file, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    text = json.dumps(_finite(document), indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def _finite(part: Any) -> Any:
    """``part`` with ``None`` for nan and inf, which JSON lacks."""
    if isinstance(part, Mapping):
        return {str(key): _finite(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_finite(value) for value in part]
    return None if isinstance(part, float) and not math.isfinite(part) else part


def converter() -> Converter:
    """Between the dataclasses of this module and JSON's types."""
    chosen = serialize.converter()
    chosen.register_unstructure_hook(
        Evaluation, lambda e: {column: _pack(r) for column, r in e.readings.items()}
    )
    chosen.register_structure_hook(Evaluation, lambda columns, _: _evaluation(columns))
    return chosen


def _pack(reading: MetricValue) -> dict[str, Any]:
    packed: dict[str, Any] = {"value": reading.value}
    if not reading.totals:
        return packed
    packed["unit"] = reading.unit
    if set(reading.counts) == {1} and set(reading.totals) <= {0.0, 1.0}:
        return packed | {"hits": "".join(str(int(total)) for total in reading.totals)}
    return packed | {"totals": list(reading.totals), "counts": list(reading.counts)}


def _unpack(entry: Mapping[str, Any]) -> MetricValue:
    value = math.nan if entry["value"] is None else float(entry["value"])
    if "unit" not in entry:
        return MetricValue(value)
    totals = tuple(map(float, entry["hits"] if "hits" in entry else entry["totals"]))
    counts = (1,) * len(totals) if "hits" in entry else tuple(map(int, entry["counts"]))
    if len(totals) != len(counts):
        raise ValueError(f"{len(totals)} totals but {len(counts)} counts")
    return MetricValue(value, str(entry["unit"]), totals, counts)


def _evaluation(columns: Mapping[str, Any]) -> Evaluation:
    if not set(SURVIVAL.values()) <= set(columns):
        raise ValueError("an evaluation without efficacy")
    return Evaluation({column: _unpack(entry) for column, entry in columns.items()})
