"""The Hydra groups that are installed, readable without importing anything heavy."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath

CONFIG_MODULE = "alphaedit_plugin.conf"


def options(group: str) -> list[str]:
    """The names of a config group's files, e.g. of ``base``; none for an unknown group."""
    folder = files(CONFIG_MODULE).joinpath(group)
    if not folder.is_dir():
        return []
    return sorted(PurePath(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def groups() -> list[str]:
    """The names of all config groups."""
    folders = (f.name for f in files(CONFIG_MODULE).iterdir() if f.is_dir())
    return sorted(name for name in folders if options(name))
