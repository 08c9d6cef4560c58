"""Fixtures for tests against the real EasyEdit.

It is looked for in ``$EASYEDIT_HOME``, the folder of its clone, and then among the installed
packages. Where there is none, test modules that say `skip_without_host` are skipped; a host that
was named but cannot be imported is an error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import alphaedit_plugin
from tests.host.stubs import import_host
from tests.host.tiny_host import FOLDERS, TinyHostModel, prepare

# The host's module globals that outlive an edit, and what they are at first.
FRESH: dict[str, Callable[[], object]] = {
    "CONTEXT_TEMPLATES_CACHE": lambda: None,
    "COV_CACHE": dict,
    "KZ_CACHE": dict,
    "inv_mom2_cache": dict,
    "P_loaded": lambda: False,
    "cache_c_new": lambda: False,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The host's own code is full of what is deprecated: only elsewhere is that an error."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for kind in ("DeprecationWarning", "FutureWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))


@pytest.fixture(scope="session")
def _imported() -> ModuleType:
    home = os.environ.get("EASYEDIT_HOME")
    folder = Path(home).expanduser().resolve() if home else None
    if folder is not None and not (folder / "easyeditor").is_dir():
        pytest.fail(f"EASYEDIT_HOME is {folder}, where there is no easyeditor folder")
    return import_host(folder)


@pytest.fixture(scope="session")
def _prepared(
    _imported: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TinyHostModel]:
    """Tiny models by family, each written once."""
    # The host reads families off the whole path, so it must not hold another one's name.
    place = tmp_path_factory.mktemp("models")
    done: dict[str, TinyHostModel] = {}

    def get(family: str) -> TinyHostModel:
        if family not in done:
            done[family] = prepare(family, place)
        return done[family]

    return get


@pytest.fixture
def host(
    _imported: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The host's package, as if just imported, in a folder of its own for its ``./logs``."""
    monkeypatch.chdir(tmp_path)
    forget_everything()
    yield _imported
    forget_everything()


@pytest.fixture
def registered(host: ModuleType) -> Iterator[ModuleType]:
    """The host with the plug-in in it."""
    alphaedit_plugin.register()
    yield host
    alphaedit_plugin.unregister()


@pytest.fixture(params=FOLDERS)
def tiny(
    request: pytest.FixtureRequest, _prepared: Callable[[str], TinyHostModel]
) -> TinyHostModel:
    """The tiny model of each family in turn."""
    return _prepared(request.param)


@pytest.fixture
def tiny_gpt2(_prepared: Callable[[str], TinyHostModel]) -> TinyHostModel:
    """The tiny GPT-2, where the family does not matter."""
    return _prepared("gpt2")


def forget_everything() -> None:
    """Reset the host's module globals, and close the log files each new editor opens."""
    for name, module in list(sys.modules.items()):
        if name.startswith("easyeditor.models."):
            for attribute in FRESH.keys() & vars(module).keys():
                setattr(module, attribute, FRESH[attribute]())
    log = logging.getLogger("easyeditor.editors.editor")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
