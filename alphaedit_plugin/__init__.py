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
    from alphaedit_plugin.config.build import load_recipe
    from alphaedit_plugin.config.compose import load_config
    from alphaedit_plugin.config.schema import EditorConfig
    from alphaedit_plugin.data.request import Probe, Request
    from alphaedit_plugin.easyedit.prune_rect import PRUNEHyperParams, RECTHyperParams
    from alphaedit_plugin.easyedit.registration import register, unregister
    from alphaedit_plugin.editing.session import EditSession
    from alphaedit_plugin.editor import NullSpaceEditor
    from alphaedit_plugin.methods.alphaedit import AlphaEdit
    from alphaedit_plugin.methods.base import METHODS, BaseMethod
    from alphaedit_plugin.models.editable import EditableModel
    from alphaedit_plugin.nullspace.cut import Cut, CutRule
    from alphaedit_plugin.nullspace.projector import Projector

__all__ = [
    "METHODS",
    "AlphaEdit",
    "AlphaEditError",
    "BaseMethod",
    "Cut",
    "CutRule",
    "EditSession",
    "EditableModel",
    "EditorConfig",
    "NullSpaceEditor",
    "PRUNEHyperParams",
    "Probe",
    "Projector",
    "RECTHyperParams",
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
        "config.build": ("load_recipe",),
        "config.compose": ("load_config",),
        "config.schema": ("EditorConfig",),
        "data.request": ("Probe", "Request"),
        "easyedit.prune_rect": ("PRUNEHyperParams", "RECTHyperParams"),
        "easyedit.registration": ("register", "unregister"),
        "editing.session": ("EditSession",),
        "editor": ("NullSpaceEditor",),
        "methods.alphaedit": ("AlphaEdit",),
        "methods.base": ("METHODS", "BaseMethod"),
        "models.editable": ("EditableModel",),
        "nullspace.cut": ("Cut", "CutRule"),
        "nullspace.projector": ("Projector",),
    }
    for module, names in homes.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
