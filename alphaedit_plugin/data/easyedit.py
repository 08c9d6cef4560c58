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
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply to be a list of records") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(records, list):
        raise ConfigError(f"{path} is not a list of records")
    requests = []
    for number, record in enumerate(records):
        try:
            requests.append(_request(record))
        except KeyError as error:
            raise ConfigError(f"{path}, record {number}: no {error} in it") from None
        except RequestError as error:
            raise ConfigError(f"{path}, record {number}: {error}") from None
    return EditData(tuple(requests))


def _request(record: Any) -> Request:
    if not isinstance(record, dict):
        raise RequestError(f"{record!r} is not a record")
    locality = {}
    if record.get("locality_prompt"):
        locality[NEIGHBOURHOOD] = Probe.parse(
            NEIGHBOURHOOD, record["locality_prompt"], record["locality_ground_truth"]
        )
    truth = record.get("ground_truth")
    if truth is not None and not isinstance(truth, str):
        raise RequestError(f"ground_truth is {truth!r}: needs text, or leave it away")
    return Request.parse(
        record["prompt"],
        record["subject"],
        record["target_new"],
        ground_truth=truth,
        rephrase=_texts("rephrase_prompt", record.get("rephrase_prompt") or []),
        locality=locality,
    )


def _texts(name: str, given: Any) -> tuple[str, ...]:
    texts = tuple(given) if isinstance(given, list) else (given,)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise RequestError(f"{name} is {given!r}: needs text, or a list of texts")
    return texts
