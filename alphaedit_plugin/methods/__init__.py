"""Base methods, registered once by name, and the null-space wrapper that takes any of them.

A new method is a subclass of `BaseMethod` in a file of its own, a line here (or a call of
``METHODS.register`` anywhere), and a YAML file under ``conf/base``.
"""

from __future__ import annotations

from alphaedit_plugin.common.registry import Registry
from alphaedit_plugin.methods.alphaedit import Mode, Projected
from alphaedit_plugin.methods.base import BaseMethod, LayerProblem
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rect import Rect
from alphaedit_plugin.methods.rome import Rome

METHODS: Registry[type[BaseMethod]] = Registry("base method")
METHODS.register("rome", Rome)
METHODS.register("memit", Memit)
METHODS.register("prune", Prune)
METHODS.register("rect", Rect)

__all__ = [
    "METHODS",
    "BaseMethod",
    "LayerProblem",
    "Memit",
    "Mode",
    "Projected",
    "Prune",
    "Rect",
    "Rome",
]
