"""Plain values as typed settings, validated by pydantic; errors are one readable line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from alphaedit_plugin.common.errors import ConfigError, quoted, unknown_name

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True)  # save=2026 names a folder
BOUNDS: Mapping[str, str] = MappingProxyType(
    {"greater_than_equal": "at least {ge}", "less_than": "less than {lt}"}
)


def must_be(what: str, holds: Callable[[Any], bool]) -> AfterValidator:
    """A condition on a setting's value, for its annotation; ``what`` ends "it must be …"."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(what)
        return value

    return AfterValidator(check)


Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
NaturalFloat = Annotated[float, must_be("at least 0 and finite", lambda x: 0 <= x < math.inf)]
PositiveFloat = Annotated[float, must_be("positive and finite", lambda x: 0 < x < math.inf)]
Text = Annotated[str, must_be("a text that is not blank", lambda text: bool(text.strip()))]
Distinct = must_be("without repetitions", lambda names: len(set(names)) == len(names))


def validated(kind: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """An instance of a dataclass, made from plain values.

    Args:
        kind: the dataclass; pydantic's, or any.
        values: by field.
        prefix: of the settings' names in messages, with a dot at its end.

    Raises:
        ConfigError: a field is unknown or missing, or a value is of the wrong type or out of range;
            one line about the first of them.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(unknown_name("key", prefix + name, [prefix + one for one in known]))
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ConfigError(_explained(error.errors()[0], prefix)) from None


def _explained(error: ErrorDetails, prefix: str) -> str:
    """One line: which setting, its value, and what it must be."""
    key = prefix + _dotted(error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{key} is not set: give it a value"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key!r}"
    if kind == "value_error":
        what = str(context["error"])
    elif kind in BOUNDS:
        what = BOUNDS[kind].format(**context)
    else:
        what = error["msg"].removeprefix("Input should be ")
    return f"{key} is {quoted(error['input'])}: it must be {what}"


def _dotted(location: Sequence[int | str]) -> str:
    """``model.layers[0]``."""
    names = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(names).removeprefix(".")
