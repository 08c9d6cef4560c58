"""Overrides as people type them; refused where Hydra would take them for another thing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.groups import groups, options
from alphaedit_plugin.methods.base import METHODS


def read_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra wants them: the text of a request in quotes.

    Raises:
        ConfigError: one text instead of a list, an override without a key, or a group that is
            given anything but the name of one of its options.
    """
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise ConfigError(f'overrides are {overrides!r}: give a list of texts, ["base=rect"]')
    for override in overrides:
        key, value = key_of(override), override.partition("=")[2].strip("'\"")
        if not key:
            raise ConfigError(f"cannot read {override!r}: overrides look like key=value")
        if key in groups() and (value == "null" or not re.fullmatch(r"[\w.-]+", value)):
            many = "; alphaedit compare runs several, compare.bases=[rome,rect]"
            raise ConfigError(
                f"{override}: choose one of {', '.join(options(key))}"
                + (many if key == "base" and value != "null" and value else "")
            )
    return [_quote_request(override) for override in overrides]


def key_of(override: str) -> str:
    """What is overridden: ``"base.alpha"`` of ``"+base.alpha=2"``."""
    return override.partition("=")[0].lstrip("+~")


def bases_with(setting: str) -> list[str]:
    """The base methods that have such a setting of their own."""
    return [name for name in METHODS if setting in (f.name for f in fields(METHODS.get(name)))]  # type: ignore[arg-type]


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
