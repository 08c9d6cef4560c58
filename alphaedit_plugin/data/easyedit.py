"""EasyEdit's JSON layout of CounterFact: flat records with one rephrasing and one neighbour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alphaedit_plugin.data.base import NEIGHBOURHOOD, EditData
from alphaedit_plugin.errors import ConfigError, RequestError
from alphaedit_plugin.request import Probe, Request


def load_easyedit(path: Path) -> EditData:
    """Read a list of records with ``prompt``, ``subject``, ``target_new`` and friends.

    Raises:
        ConfigError: the file is missing or no list of records, or a record lacks a field; the
            message has its number.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no data at {path}: set data.path to EasyEdit's JSON file") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(records, list):
        raise ConfigError(f"{path} is not a list of records")
    requests = []
    for number, record in enumerate(records):
        try:
            requests.append(_request(record))
        except (KeyError, TypeError, RequestError) as error:
            raise ConfigError(f"{path}, record {number}: {error}") from None
    return EditData(tuple(requests))


def _request(record: dict[str, Any]) -> Request:
    locality = {}
    if record.get("locality_prompt"):
        locality[NEIGHBOURHOOD] = Probe.parse(
            NEIGHBOURHOOD, record["locality_prompt"], record["locality_ground_truth"]
        )
    rephrase = record.get("rephrase_prompt") or ()
    return Request.parse(
        record["prompt"],
        record["subject"],
        record["target_new"],
        ground_truth=record.get("ground_truth"),
        rephrase=(rephrase,) if isinstance(rephrase, str) else tuple(rephrase),
        locality=locality,
    )
