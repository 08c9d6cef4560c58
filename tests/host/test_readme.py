"""What README.md and docs/easyedit.md say of EasyEdit, done as it stands there."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import alphaedit_plugin
from tests.host.stubs import stubbed
from tests.host.test_flag import asked, leaks, weights
from tests.host.tiny_host import REPOSITORY, TinyHostModel, pin_contexts, skip_without_host

skip_without_host()


@pytest.fixture(autouse=True)
def _unregistered(host: ModuleType) -> Iterator[None]:
    yield
    alphaedit_plugin.unregister()


def page(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_the_snippet(tiny_gpt2: TinyHostModel) -> None:
    """In the folder that the host's editor is run in, with its YAML file for a tiny model."""
    section = page("README.md").partition("\n## In EasyEdit")[2].partition("\n## ")[0]
    (snippet,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (file,) = re.findall(r'from_hparams\("(.*?)"\)', snippet)
    folder = Path(file).parent
    folder.mkdir(parents=True)
    cut = {"null_space_cut": tiny_gpt2.nullspace_threshold, "null_space_l2": 1.0}
    tiny_gpt2.write_hparams("MEMIT", folder, **cut).rename(file)
    names: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    pin_contexts("MEMIT")
    editor = names["editor"]
    before = weights(editor.model)
    editor.edit(**asked(tiny_gpt2, 1), sequential_edit=False)
    assert all(torch.equal(w, before[n]) for n, w in weights(editor.model).items())
    editor.edit(**asked(tiny_gpt2, 1), sequential_edit=True)
    assert max(leaks(tiny_gpt2, "MEMIT", editor.model).values()) < 1e-5


def test_its_table_lists_what_is_registered() -> None:
    rows = re.findall(r"^\| ([A-Z][^|]*?) \|", page("docs/easyedit.md"), re.MULTILINE)
    listed = {name for row in rows for name in row.split(", ")}
    assert listed == set(alphaedit_plugin.register())


def test_a_copy_from_the_folder_above_takes_the_flag(host: ModuleType, tmp_path: Path) -> None:
    """``from EasyEdit.easyeditor import …`` is another copy of the host."""
    clone = Path(str(host.__file__)).parents[1]
    (tmp_path / "EasyEdit").symlink_to(clone, target_is_directory=True)
    alphaedit_plugin.register()
    sys.path.insert(0, str(tmp_path))
    try:
        with stubbed():
            other = importlib.import_module("EasyEdit.easyeditor")
        for package in (host, other):
            settings = clone / "hparams" / "MEMIT" / "gpt2-xl.yaml"
            hparams = package.MEMITHyperParams.from_hparams(str(settings))
            kind = type(hparams)
            assert kind.__module__.startswith(package.__name__ + ".")
            assert kind(**(vars(hparams) | {"null_space": True})).null_space
        alphaedit_plugin.unregister()
        with pytest.raises(TypeError, match="null_space"):
            other.MEMITHyperParams(**(vars(hparams) | {"null_space": True}))
    finally:
        sys.path.remove(str(tmp_path))
        for name in [n for n in sys.modules if n.partition(".")[0] == "EasyEdit"]:
            del sys.modules[name]
