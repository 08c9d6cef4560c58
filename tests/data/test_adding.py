"""A new data set is one file in ``alphaedit_plugin/data`` and one in ``conf/data``, no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import alphaedit_plugin
from tests.data.files import write

MODULE = '''
"""Somebody's own layout."""

from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.source import FileData, Reading
from alphaedit_plugin.data.request import Request


def read(record):
    return [Request.parse(record.text("question"), record.text("about"), record.text("answer"))]


DATA.register("mine", FileData("mine", "mine.json", "https://x.org", lambda data: Reading(read)))
'''
SCRIPT = """
import sys
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.selection import load_data

print(load_data(load_config(["data=mine", f"data.path={sys.argv[1]}"])).requests[0].filled)
"""


def test_one_file_and_one_yaml(tmp_path: Path) -> None:
    package = tmp_path / "alphaedit_plugin"
    source = Path(alphaedit_plugin.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(source.parent / "conf", package / "conf", dirs_exist_ok=True)
    (package / "data" / "sets" / "mine.py").write_text(MODULE, encoding="utf-8")
    (package / "conf" / "data" / "mine.yaml").write_text("name: mine\n", encoding="utf-8")
    path = write(tmp_path, [{"question": "Ada speaks", "about": "Ada", "answer": "French"}])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "Ada speaks\n", done.stderr[-2000:]
