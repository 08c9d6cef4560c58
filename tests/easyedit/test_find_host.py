"""Where the host is looked for, and what is said where it is not."""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import alphaedit_plugin
from alphaedit_plugin.easyedit.find_host import HostError
from tests.easyedit.conftest import (
    DOUBLE,
    loaded,
    without_host,
)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No host, installed or loaded."""
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    with without_host():
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        yield


def test_a_missing_host_is_explained(nowhere: None) -> None:
    with pytest.raises(HostError, match=r"git clone https://\S*EasyEdit.*EASYEDIT_HOME"):
        alphaedit_plugin.register()
    alphaedit_plugin.unregister()


def test_a_home_without_the_host_is_named(
    nowhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EASYEDIT_HOME", str(tmp_path))
    with pytest.raises(HostError, match=re.escape(f"EASYEDIT_HOME is {tmp_path}")):
        alphaedit_plugin.register()


def test_a_host_that_lacks_a_package_says_what_to_install(
    nowhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "easyeditor" / "__init__.py"
    package.parent.mkdir()
    package.write_text(textwrap.dedent("import no_such_package_at_all"))
    monkeypatch.setenv("EASYEDIT_HOME", str(tmp_path))
    with pytest.raises(HostError, match=r"no_such_package_at_all.*alphaedit doctor"):
        alphaedit_plugin.register()


def test_nothing_of_the_double_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before, path = loaded(), list(sys.path)
    with without_host():
        monkeypatch.setenv("EASYEDIT_HOME", str(DOUBLE))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        alphaedit_plugin.register()
        assert str(DOUBLE) in sys.path
        assert "easyeditor.util.alg_dict" in loaded()
    assert loaded() == before
    assert sys.path == path
