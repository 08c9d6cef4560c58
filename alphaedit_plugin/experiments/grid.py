"""The grid of a comparison: every base, plain and projected, on otherwise equal settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.overrides import bases_with, key_of
from alphaedit_plugin.config.schema import EditorConfig

# What other commands take, and what takes its place here.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "base": "it runs those of compare.bases=[rome,memit]",
        "null_space": "it runs every base both with and without: compare.bases says which",
        "host": "it runs host=native only: use alphaedit edit for other hosts",
        "save": "it keeps no model: compare.out says where the report goes",
        "request": "it edits many requests: those of data=…",
    }
)
SWEPT = ("base", "null_space")  # what a sweep says itself


def grid(overrides: Sequence[str]) -> list[EditorConfig]:
    """The configurations of all cells: every base of ``compare.bases``, plain then projected.

    An override ``base.x=…`` goes to those bases that have a field ``x``.

    Raises:
        ConfigError: no base, an override that no base takes or that compare has no use for, or
            one that does not compose.
    """
    own = [o for o in overrides if key_of(o).startswith("base.")]
    common = [o for o in overrides if o not in own]
    refuse_useless(common)
    bases = load_config(common).compare.bases
    if not bases:
        raise ConfigError("compare.bases is empty: name at least one base method")
    takers = {override: bases_with(key_of(override).removeprefix("base.")) for override in own}
    for override, takes in takers.items():
        if not set(takes) & set(bases):
            raise ConfigError(f"none of {', '.join(bases)} has a setting for {override!r}")
    return [
        load_config(
            [*common, f"base={base}", f"null_space={flag}"]
            + [override for override in own if base in takers[override]]
        )
        for base in bases
        for flag in ("false", "true")
    ]


def refuse_useless(overrides: Sequence[str], sweeping: bool = False) -> None:
    """Refuse overrides that a comparison has no use for.

    Args:
        overrides: as on the command line.
        sweeping: with ``-m``, where each cell has a base and a side of its own.

    Raises:
        ConfigError: there is one; the message says what takes its place.
    """
    for override in overrides:
        name = key_of(override)
        key = name.split(".")[0]
        if sweeping and name == "compare.bases":
            raise ConfigError(f"a sweep has no use for {override!r}: write -m base=rome,memit")
        if key in REFUSED and override != "host=native" and not (sweeping and key in SWEPT):
            hint = "; or sweep: alphaedit compare -m base=rome,memit" if key in SWEPT else ""
            raise ConfigError(f"compare has no use for {override!r}: {REFUSED[key]}{hint}")
