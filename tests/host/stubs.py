"""Imports EasyEdit where its image and video packages are not installed.

``import easyeditor`` pulls in its multimodal editors and, with them, packages that no text method
uses. Where one is missing, a placeholder answers the host's import statements. Placeholders live
only while the host is imported: a ``torchvision`` that stays in ``sys.modules`` would be taken for
the real one by transformers and datasets.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

MULTIMODAL = (
    "av",
    "cv2",
    "fairscale.nn.checkpoint.checkpoint_activations",
    "iopath.common.download",
    "iopath.common.file_io",
    "qwen_vl_utils",
    "timm.layers",
    "timm.models.hub",
    "torchvision.datasets.utils",
    "torchvision.transforms.functional",
)
# These ask, once and when imported, which of the packages above there are.
ASKING = ("transformers", "datasets", "peft", "sentence_transformers")


class _Stub(ModuleType):
    """A module in which every name is an empty class."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package, so that its submodules can be imported

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def stubbed() -> Iterator[frozenset[str]]:
    """Let missing multimodal packages be imported, inside the block only.

    Yields:
        The top-level packages that are stubbed.
    """
    for name in ASKING:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    _ask_transformers()
    roots = {name.partition(".")[0] for name in MULTIMODAL}
    missing = frozenset(root for root in roots if importlib.util.find_spec(root) is None)
    added = [
        _add(".".join(parts[: depth + 1]))
        for parts in (name.split(".") for name in MULTIMODAL)
        if parts[0] in missing
        for depth in range(len(parts))
    ]
    try:
        yield missing
    finally:
        for name in added:
            sys.modules.pop(name, None)


def import_host(home: Path | None = None) -> ModuleType:
    """The ``easyeditor`` package, from its clone at ``home`` or as installed.

    Raises:
        ImportError: it is not there, or a package it needs is missing: see requirements-host.txt.
    """
    if home is not None and str(home) not in sys.path:
        sys.path.insert(0, str(home))
    if "easyeditor" not in sys.modules:
        with stubbed():
            importlib.import_module("easyeditor")
    return sys.modules["easyeditor"]


def _ask_transformers() -> None:
    """Have transformers look for the real packages now: it remembers the answer."""
    found = importlib.import_module("transformers.utils.import_utils")
    for name in ("av", "cv2", "timm", "torchvision", "torchvision_v2"):
        ask = getattr(found, f"is_{name}_available", None)
        if ask is not None:
            ask()


def _add(name: str) -> str:
    if name not in sys.modules:
        sys.modules[name] = _Stub(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    return name
