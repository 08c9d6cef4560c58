"""Hydra's and OmegaConf's complaints, said to people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from alphaedit_plugin.common.errors import first_line, unknown_name
from alphaedit_plugin.common.groups import options
from alphaedit_plugin.config.overrides import bases_with
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.methods.base import METHODS


def explain(error: BaseException) -> str:
    """Hydra's or OmegaConf's complaint in one line, with the nearest names."""
    text = str(error)
    option = re.search(r"Could not find '([\w/.-]+)/([\w.-]+)'", text)
    if option:
        group, name = option.groups()
        return unknown_name(f"option for {group}", name, options(group))
    several = re.search(r"Ambiguous value for argument '(.+)'", text)
    if several:
        return f"{several.group(1)}: write a list as [a,b], and a text with commas in quotes"
    key = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Key '[^']+' (?:is )?not in [\s\S]*?full_key: (\S+)", text
    )
    if key:
        return _unknown_key(key.group(1))
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: overrides look like key=value"
    if text.startswith("Error merging override") and error.__cause__:
        return f"{text.removeprefix('Error merging override ')}: {first_line(error.__cause__)}"
    if error.__cause__ and "ValidationError" in text:
        return f"{first_line(error)} {first_line(error.__cause__)}"
    return first_line(error)


def _unknown_key(key: str) -> str:
    """Name the nearest keys: those that end alike, or those beside it, or any."""
    group, _, name = key.partition(".")
    if group == "base" and bases_with(name):
        owners = " and ".join(f"base={base}" for base in bases_with(name))
        return f"{key} is a setting of {owners}, not of the base that is chosen"
    known = _known_keys()
    alike = [name for name in known if name.endswith(f".{key}")]
    if alike:
        return f"unknown key {key!r}; did you mean {' or '.join(map(repr, alike[:3]))}?"
    parent = key.rpartition(".")[0]
    beside = [name for name in known if parent and name.rpartition(".")[0] == parent]
    return unknown_name("key", key, beside or known)


def _known_keys() -> list[str]:
    """Every key that can be overridden, dotted, groups and the bases' own fields included."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            yield prefix + str(key)
            yield from walk(value, f"{prefix}{key}.")

    schema = OmegaConf.to_container(OmegaConf.structured(EditorConfig))
    own = {f"base.{f.name}" for name in METHODS for f in fields(METHODS.get(name))}  # type: ignore[arg-type]
    return [*walk(schema, ""), *sorted(own)]
