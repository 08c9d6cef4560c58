"""Null-space projection (AlphaEdit) for locate-then-edit model editors.

>>> from alphaedit_plugin import NullSpaceEditor
>>> editor = NullSpaceEditor.from_pretrained("pocket", overrides=["base=rect"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alphaedit_plugin.common.errors import AlphaEditError
from alphaedit_plugin.common.version import VERSION as __version__

if TYPE_CHECKING:
    from alphaedit_plugin.config import EditorConfig, load_config
    from alphaedit_plugin.config.build import load_recipe
    from alphaedit_plugin.data.request import Probe, Request
    from alphaedit_plugin.easyedit import register, unregister
    from alphaedit_plugin.editing.session import EditSession
    from alphaedit_plugin.editor import NullSpaceEditor
    from alphaedit_plugin.methods import METHODS, BaseMethod, Projected
    from alphaedit_plugin.models import EditableModel
    from alphaedit_plugin.nullspace import Cut, CutRule, Projector

__all__ = [
    "METHODS",
    "AlphaEditError",
    "BaseMethod",
    "Cut",
    "CutRule",
    "EditSession",
    "EditableModel",
    "EditorConfig",
    "NullSpaceEditor",
    "Probe",
    "Projected",
    "Projector",
    "Request",
    "__version__",
    "load_config",
    "load_recipe",
    "register",
    "unregister",
]


def __getattr__(name: str) -> Any:
    # Names resolve on first use: torch and transformers take seconds, which `alphaedit --help`
    # and whoever needs one module only should not wait for.
    homes = {
        "config": ("EditorConfig", "load_config"),
        "easyedit": ("register", "unregister"),
        "editor": ("NullSpaceEditor",),
        "config.build": ("load_recipe",),
        "methods": ("METHODS", "BaseMethod", "Projected"),
        "models": ("EditableModel",),
        "nullspace": ("Cut", "CutRule", "Projector"),
        "data.request": ("Probe", "Request"),
        "editing.session": ("EditSession",),
    }
    for module, names in homes.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
