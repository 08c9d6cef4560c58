"""Sources of edit data, registered by the name that ``data.name`` selects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from alphaedit_plugin.data.base import NEIGHBOURHOOD, EditData
from alphaedit_plugin.data.easyedit import load_easyedit
from alphaedit_plugin.data.pocket import load_pocket_data
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.registry import Registry

if TYPE_CHECKING:
    from alphaedit_plugin.config import EditorConfig

DATA: Registry[Callable[[EditorConfig], EditData]] = Registry("data")
DATA.register("default", lambda config: _default(config))
DATA.register("pocket", lambda config: _pocket(config))
DATA.register("easyedit", lambda config: load_easyedit(_path(config)))


def load_data(config: EditorConfig) -> EditData:
    """The requests and retained facts that ``config.data`` names, cut to its limit.

    Raises:
        ConfigError: unknown data, or a file that is missing or malformed.
    """
    found = DATA.get(config.data.name)(config)
    return EditData(found.requests[: config.data.limit], found.retention)


def _default(config: EditorConfig) -> EditData:
    """The pocket world's data for the pocket model; other models have none of their own."""
    if config.model.path is not None:
        raise ConfigError(
            f"no requests for {config.model.path}: give request.prompt, request.subject and "
            "request.target_new, or data=easyedit data.path=… (data=pocket is about people whom "
            "only the pocket model knows)"
        )
    return _pocket(config)


def _pocket(config: EditorConfig) -> EditData:
    if config.data.path is not None:
        raise ConfigError(
            f"data={config.data.name} has no file: leave data.path away, or choose data=easyedit"
        )
    return load_pocket_data(config.seed, config.compare.retention)


def _path(config: EditorConfig) -> Path:
    if config.data.path is None:
        raise ConfigError(f"data={config.data.name} needs a file: set data.path=…")
    return Path(config.data.path).expanduser()


__all__ = ["DATA", "NEIGHBOURHOOD", "EditData", "load_data"]
