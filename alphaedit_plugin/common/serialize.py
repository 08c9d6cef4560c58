"""Dataclasses as JSON and back, strictly: what is read is what was written, or a `ValueError`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from typing import Any, get_args, get_origin, get_type_hints

from cattrs import Converter

from alphaedit_plugin.common.errors import AlphaEditError, quoted

Reader = Callable[[Any, Any], Any]  # of a value, and the type that is wanted

QUOTED = 60  # characters of a refused value in a message
DIGITS = 15  # of a whole number that is a mapping's key


def converter() -> Converter:
    """A converter between dataclasses and JSON's types, to register hooks of further types on.

    It knows dataclasses, text, numbers, booleans, ``X | None``, tuples, and
    mappings whose keys are text or whole numbers; `Any` and `object` stay as they are. A float
    that is not finite becomes ``null``, and ``null`` nan.

    Reading raises `ValueError`, in a sentence that says where: for a value of another type, a field
    that is unknown, or missing without a default, and for what a dataclass itself refuses.
    """
    made = Converter(detailed_validation=False, unstruct_collection_overrides={tuple: list})
    made.register_structure_hook(str, _exactly(str, "a text"))
    made.register_structure_hook(bool, _exactly(bool, "true or false"))
    made.register_structure_hook(int, _exactly(int, "a whole number"))
    made.register_structure_hook(float, _read_float)
    made.register_unstructure_hook(float, lambda number: number if math.isfinite(number) else None)
    made.register_structure_hook_func(_is_raw, lambda value, _: value)
    made.register_unstructure_hook_func(_is_raw, lambda value: value)
    made.register_structure_hook_factory(_is(tuple), partial(_tuple_reader, made))
    made.register_structure_hook_factory(_is(Mapping), partial(_mapping_reader, made))
    made.register_structure_hook_factory(is_dataclass, partial(_dataclass_reader, made))
    return made


def expect(value: Any, kind: type | tuple[type, ...], name: str) -> Any:
    """``value``, if it is of a type, of which a bool is only bool's.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"expected {name}, found {quoted(value, QUOTED)}")
    return value


def _exactly(kind: type, name: str) -> Reader:
    return lambda value, _: expect(value, kind, name)


def _read_float(value: Any, _: Any) -> float:
    return math.nan if value is None else float(expect(value, (int, float), "a number"))


def _is(origin: Any) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) is origin


def _is_raw(kind: Any) -> bool:
    return kind is Any or kind is object


def _tuple_reader(made: Converter, kind: Any) -> Reader:
    kinds = get_args(kind)

    def read(value: Any, _: Any) -> tuple[Any, ...]:
        items = expect(value, list, "a list")
        each = (kinds[0],) * len(items) if kinds[-1] is ... else kinds
        if len(items) != len(each):
            raise ValueError(f"expected {len(each)} values, found {quoted(value, QUOTED)}")
        return tuple(made.structure(item, one) for item, one in zip(items, each, strict=True))

    return read


def _mapping_reader(made: Converter, kind: Any) -> Reader:
    of_key, of_value = get_args(kind)

    def read(value: Any, _: Any) -> dict[Any, Any]:
        rows = expect(value, dict, "an object")
        return {
            _read_key(key) if of_key is int else made.structure(key, of_key): _at(
                key, made, row, of_value
            )
            for key, row in rows.items()
        }

    return read


def _read_key(key: Any) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= DIGITS:
        return int(key)
    raise ValueError(f"expected a whole number, found {quoted(key, QUOTED)}")


def _dataclass_reader(made: Converter, kind: Any) -> Reader:
    hints, name = get_type_hints(kind), kind.__name__
    kinds = {field.name: hints[field.name] for field in fields(kind) if field.init}
    required = {
        field.name
        for field in fields(kind)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    }

    def read(value: Any, _: Any) -> Any:
        row = expect(value, dict, f"the fields of {name}")
        for unknown in sorted(row.keys() - kinds.keys()):
            raise ValueError(
                f"unknown field {quoted(unknown, QUOTED)} of {name}: a later version may have "
                "written it"
            )
        for missing in sorted(required - row.keys()):
            raise ValueError(f"{name} lacks its field {missing!r}")
        parts = {one: _at(one, made, part, kinds[one]) for one, part in row.items()}
        try:
            return kind(**parts)
        except AlphaEditError as error:
            raise ValueError(str(error)) from None

    return read


def _at(name: str, made: Converter, value: Any, kind: Any) -> Any:
    """Read one part; an error says which."""
    try:
        return made.structure(value, kind)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
