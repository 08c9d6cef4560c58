"""Sources of edit data, registered by the name that ``data.name`` selects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alphaedit_plugin.config import EditorConfig
from alphaedit_plugin.data.base import NEIGHBOURHOOD, EditData
from alphaedit_plugin.data.easyedit import load_easyedit
from alphaedit_plugin.data.pocket import load_pocket_data
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.registry import Registry

Loader = Callable[[EditorConfig], EditData]

DATA: Registry[Loader] = Registry("data")
DATA.register("pocket", lambda config: load_pocket_data(config.seed, config.compare.retention))
DATA.register("easyedit", lambda config: load_easyedit(_path(config)))


def load_data(config: EditorConfig) -> EditData:
    """The requests and retained facts that ``config.data`` names, cut to its limit.

    Raises:
        ConfigError: unknown data, or a file that is missing or malformed.
    """
    found = DATA.get(config.data.name)(config)
    return EditData(found.requests[: config.data.limit], found.retention)


def _path(config: EditorConfig) -> Path:
    if config.data.path is None:
        raise ConfigError(f"data={config.data.name} needs a file: set data.path=…")
    return Path(config.data.path).expanduser()


__all__ = ["DATA", "NEIGHBOURHOOD", "EditData", "load_data"]
