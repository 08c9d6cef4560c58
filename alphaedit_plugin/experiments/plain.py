"""What was measured, in JSON's types and back: readings in a short form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cattrs import Converter

from alphaedit_plugin.metrics.base import MetricValue
from alphaedit_plugin.metrics.evaluation import SURVIVAL, Evaluation


def converter() -> Converter:
    """Between the dataclasses of a comparison and JSON's types."""
    found = Converter(detailed_validation=False)
    found.register_unstructure_hook(MetricValue, _pack)
    found.register_structure_hook(MetricValue, lambda entry, _: _unpack(entry))
    found.register_unstructure_hook(
        Evaluation, lambda e: {column: _pack(r) for column, r in e.readings.items()}
    )
    found.register_structure_hook(Evaluation, lambda entry, _: _evaluation(entry))
    found.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)
    found.register_structure_hook(float, lambda x, _: math.nan if x is None else float(x))
    return found


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
