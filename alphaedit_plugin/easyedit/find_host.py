"""Finding and importing EasyEdit, which has no package: users clone it.

Nothing outside this folder imports ``easyeditor``, and nothing in it does so before it is asked to.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from alphaedit_plugin.common.errors import AlphaEditError

HOME = "EASYEDIT_HOME"  # an environment variable: the folder of a clone
HOST = "easyeditor"
ALGORITHMS = ".util.alg_dict"  # of the package: the module that lists its methods


class HostError(AlphaEditError):
    """EasyEdit is missing, cannot be imported, or does not work as it did when this was written."""


def copies() -> list[str]:
    """The names of all copies of the host that are imported.

    With the folder above a clone on the path there is one named ``EasyEdit.easyeditor``, which
    shares nothing with ``easyeditor``.
    """
    return [
        name for name in list(sys.modules) if is_host(name) and f"{name}{ALGORITHMS}" in sys.modules
    ]


def is_host(name: str) -> bool:
    """Whether a module of this name may be the host's package."""
    return name.rpartition(".")[2] == HOST


def find_clone(script: Path | None = None) -> Path | None:
    """The clone that ``$EASYEDIT_HOME`` names; without it, the one around the shell or a script.

    Raises:
        HostError: the variable names another folder.
    """
    home = os.environ.get(HOME)
    if home:
        folders = [Path(home).expanduser().resolve()]
    else:
        folders = [Path.cwd(), *Path.cwd().parents, *(script.resolve().parents if script else ())]
    clone = next((one for one in folders if (one / HOST / "__init__.py").is_file()), None)
    if home and clone is None:
        raise HostError(f"{HOME} is {home}, where there is no folder {HOST}: fix the path")
    return clone


def host_folder() -> Path | None:
    """The folder that holds ``easyeditor``, by the same rules as `import_host`."""
    spec = importlib.util.find_spec(next(iter(copies()), HOST))
    if spec is not None and spec.origin:
        return Path(spec.origin).parents[1]
    with suppress(HostError):  # which `import_host` raises
        return find_clone()
    return None


def import_host(script: Path | None = None) -> ModuleType:
    """The host's package: as imported before, as installed, or from `find_clone`.

    Raises:
        HostError: it is not there, or cannot be imported; the message says what to do.
    """
    imported = copies()
    if imported:
        return sys.modules[imported[0]]
    if importlib.util.find_spec(HOST) is None:
        clone = find_clone(script)
        if clone is None:
            raise HostError(
                "EasyEdit is not here: git clone https://github.com/zjunlp/EasyEdit, and set "
                f"{HOME} to that folder (or run from inside it)"
            )
        sys.path.insert(0, str(clone))
    try:
        return importlib.import_module(HOST)
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        raise HostError(
            f"EasyEdit is here but cannot be imported: {error}; alphaedit doctor says what to "
            "install"
        ) from error
