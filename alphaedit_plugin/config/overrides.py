"""Overrides as people type them; refused where Hydra would take them for another thing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from importlib.resources import files
from typing import Any, get_origin, get_type_hints

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from alphaedit_plugin.common.errors import ConfigError, unknown_name
from alphaedit_plugin.common.groups import CONFIG_MODULE, groups, options

OWNING = ("base", "data")  # groups whose options have settings of their own
WHOLE = "compare"  # the node that an experiment=… is about


def read_overrides(overrides: Sequence[str], schema: type, sweeping: bool = False) -> list[str]:
    """The overrides as Hydra wants them: the text of a request in quotes.

    Args:
        overrides: as typed.
        schema: a dataclass of the settings that are read.
        sweeping: one may give several values, ``a,b``.

    Raises:
        ConfigError: one text instead of a list, an override without a key or with one that is not
            in the schema, or a group that is given anything but the name of one of its options.
    """
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise ConfigError(f'overrides are {overrides!r}: give a list of texts, ["base=rect"]')
    quoted = [_quote_request(override) for override in overrides]
    searched = any(key_of(override).startswith("hydra.searchpath") for override in quoted)
    for override in quoted:
        key = key_of(override)
        if not key or not ("=" in override or override.startswith("~")):
            raise ConfigError(f"cannot read {override!r}: overrides look like key=value")
        if key.startswith("hydra"):
            continue
        if not reads(schema, key):
            raise ConfigError(unknown_key(key, schema))
        values = _values(override, sweeping or key in groups())
        if key in groups():
            if len(values) > 1 and not sweeping:
                values = [",".join(values)]
            for value in values:
                _check_option(key, value, override, searched)
    return quoted


def _values(override: str, sweeping: bool) -> list[str]:
    """What an override gives, as typed; several where it sweeps."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException:
        raise ConfigError(f"cannot read {override!r}: overrides look like key=value") from None
    if not parsed.is_sweep_override():
        return [override.partition("=")[2].strip("'\"")]
    if not sweeping:
        raise ConfigError(f"{override}: write a list as [a,b], and a text with commas in quotes")
    return list(parsed.sweep_string_iterator())


def key_of(override: str) -> str:
    """What is overridden: ``"base.alpha"`` of ``"+base.alpha=2"``."""
    return override.partition("=")[0].lstrip("+~")


def reads(schema: type, key: str) -> bool:
    """Whether a schema has a setting, by its dotted name."""
    head, _, rest = key.partition(".")
    if head == "experiment" and not rest:
        return reads(schema, WHOLE)
    kind = get_type_hints(schema).get(head)
    if kind is None or not rest:
        return kind is not None
    if head in OWNING and owners(head, rest.partition(".")[0]):
        return True
    if isinstance(kind, type) and is_dataclass(kind):
        return reads(kind, rest)
    return kind is Any or (get_origin(kind) is dict and head not in OWNING)  # of any keys


def owners(group: str, setting: str) -> list[str]:
    """The options of a group whose files have this setting."""
    return [option for option in options(group) if setting in settings_of(group, option)]


def settings_of(group: str, option: str) -> set[str]:
    """The settings in an option's file."""
    text = files(CONFIG_MODULE).joinpath(f"{group}/{option}.yaml").read_text(encoding="utf-8")
    return set(yaml.safe_load(text)) - {"name", "span"}


def unowned(overrides: Sequence[str]) -> str | None:
    """The error for a setting that only other options of its group have; ``None`` without one."""
    given = {key_of(override): override.partition("=")[2] for override in overrides}
    for group in OWNING:
        chosen = given.get(group, _default_of(group)).split(",")  # several where it is swept
        for name in (key.partition(".")[2] for key in given if key.startswith(f"{group}.")):
            having = owners(group, name)
            lacking = [option for option in chosen if option not in having]
            if having and lacking:
                of = " and ".join(f"{group}={option}" for option in having)
                return f"{group}.{name} is a setting of {of}, not of {group}={lacking[0]}"
    return None


def _default_of(group: str) -> str:
    """The option that config.yaml chooses."""
    text = files(CONFIG_MODULE).joinpath("config.yaml").read_text(encoding="utf-8")
    chosen = [one[group] for one in yaml.safe_load(text)["defaults"] if group in one]
    return str(chosen[0])


def defaults_of(schema: type) -> dict[str, Any]:
    """Every setting of a schema with its default, as plain values; ``"???"`` where it has none."""
    found: dict[str, Any] = {}
    hints = get_type_hints(schema)
    for field in fields(schema):
        if is_dataclass(hints[field.name]):
            found[field.name] = defaults_of(hints[field.name])
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
        elif field.default is not MISSING:
            value = field.default
            found[field.name] = value.value if isinstance(value, Enum) else value
        else:
            found[field.name] = "???"
    return found


def _check_option(group: str, value: str, override: str, searched: bool) -> None:
    if value != "null" and re.fullmatch(r"[\w.-]+", value):
        if value not in options(group) and not searched:
            raise ConfigError(unknown_name(f"option for {group}", value, options(group)))
    elif group != "experiment":
        many = "; alphaedit compare runs several, compare.bases=[rome,rect]"
        raise ConfigError(
            f"{override}: choose one of {', '.join(options(group))}"
            + (many if group == "base" and value != "null" and value else "")
        )


def unknown_key(key: str, schema: type) -> str:
    """Name the nearest keys: those that end alike, or those beside it, or any."""
    known = list(_known_keys(schema))
    alike = [name for name in known if name.endswith(f".{key}")]
    if alike:
        return f"unknown key {key!r}; did you mean {' or '.join(map(repr, alike[:3]))}?"
    parent = key.rpartition(".")[0]
    beside = [name for name in known if parent and name.rpartition(".")[0] == parent]
    return unknown_name("key", key, beside or known)


def dotted(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of nested dictionaries: ``"model"``, ``"model.target"``, ``"model.target.lr"``."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield prefix + str(key)
        yield from dotted(value, f"{prefix}{key}.")


def _known_keys(schema: type) -> Iterator[str]:
    """Every key that can be overridden, dotted."""
    defaults = defaults_of(schema)
    defaults.get("data", {}).pop("options", None)
    yield from dotted(defaults)
    for group in OWNING:
        own = {name for option in options(group) for name in settings_of(group, option)}
        yield from (f"{group}.{name}" for name in sorted(own) if group in defaults)


def _quote_request(override: str) -> str:
    """Quote the text of a request, whose slot ``{}`` Hydra's grammar takes for a dictionary."""
    key, sign, value = override.partition("=")
    quoted = len(value) > 1 and value[0] in "'\"" and value[0] == value[-1]
    if not key.startswith("request.") or not sign or value == "null" or quoted:
        return override
    # Hydra reads backslashes before a quote only, and an uneven number of them at the end.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"{key}='{escaped}{chr(92) * trailing}'"
