"""The Hydra groups that are installed, readable without importing anything heavy."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath

CONFIG_MODULE = "alphaedit_plugin.conf"


def options(group: str) -> list[str]:
    """The names of a config group's files, e.g. of ``base``; none for an unknown group.

    A file whose name begins with ``_`` is a part of others, and no option.
    """
    folder = files(CONFIG_MODULE).joinpath(group)
    if not folder.is_dir():
        return []
    found = (PurePath(f.name) for f in folder.iterdir())
    return sorted(p.stem for p in found if p.suffix == ".yaml" and not p.stem.startswith("_"))


def groups() -> list[str]:
    """The names of all config groups."""
    folders = (f.name for f in files(CONFIG_MODULE).iterdir() if f.is_dir())
    return sorted(name for name in folders if options(name))
