"""Values out of JSON that nobody vouches for: of the right type, or a `ValueError`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LONGEST = 300  # characters of a name, a version, a time


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {_shown(value)}")
    return value


def sequence(value: Any) -> list[Any]:
    """A JSON array."""
    if not isinstance(value, list):
        raise ValueError(f"expected a list, found {_shown(value)}")
    return value


def whole(value: Any) -> int:
    """A whole number that is not negative."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a whole number, found {_shown(value)}")
    return value


def number(value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{_shown(value)} is no number")
    return float(value)


def text(value: Any) -> str:
    """A text of any length, as a request holds it."""
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {_shown(value)}")
    return value


def label(value: Any) -> str:
    """A short printable text: what is shown to people must not steer their terminal."""
    found = text(value)
    if len(found) > LONGEST or not found.isprintable():
        raise ValueError(f"expected a short printable text, found {_shown(value)}")
    return found


def by_layer(value: Any) -> dict[int, Any]:
    """An object whose names are layer numbers."""
    numbers = {}
    for key, entry in mapping(value).items():
        if not (key.isascii() and key.isdigit() and len(key) < 6):
            raise ValueError(f"expected a layer's number, found {_shown(key)}")
        numbers[int(key)] = entry
    return numbers


def labels(value: Any) -> dict[int, str]:
    """A short text per layer."""
    return {layer: label(entry) for layer, entry in by_layer(value).items()}


def _shown(value: Any) -> str:
    return ascii(value)[:60]
