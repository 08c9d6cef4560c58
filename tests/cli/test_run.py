"""``alphaedit run``: flags taken off a script's command line, and the script run as Python would.

With the real host: tests/host/test_run.py.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.easyedit import run
from alphaedit_plugin.easyedit.find_host import HOME, find_clone
from alphaedit_plugin.easyedit.hparams import KEYS, NullSpaceFlag

Capture = pytest.CaptureFixture[str]
REPORT = """
import json, os, sys
with open({out!r}, "w") as file:
    json.dump([__name__, __file__, sys.argv, sys.path[0], os.getcwd()], file)
"""


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for the host: the flags of each run."""
    seen: list[dict[str, Any]] = []

    @contextmanager
    def plugged_in(flags: dict[str, Any], script: Path) -> Iterator[list[str]]:
        seen.append(flags)
        sys.path.insert(0, "/host")  # as finding one in $EASYEDIT_HOME does
        yield ["MEMITHyperParams"]

    monkeypatch.setattr(run, "plugged_in", plugged_in)
    return seen


def script(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "script.py"
    path.write_text(text)
    return str(path)


# ---------------------------------------------------------------------------------------------
# Flags


@pytest.mark.parametrize(
    ("line", "flags", "rest"),
    [
        ("", {}, ""),
        ("--a 1 --b", {}, "--a 1 --b"),
        ("--a 1 --null_space", {"null_space": True}, "--a 1"),
        ("--null_space --a 1", {"null_space": True}, "--a 1"),
        ("--null_space data.json", {"null_space": True}, "data.json"),
        ("--null_space true x", {"null_space": True}, "x"),
        ("--null_space False x", {"null_space": False}, "x"),
        ("--null_space=false x", {"null_space": False}, "x"),
        ("--null_space --null_space=false", {"null_space": False}, ""),
        ("--null_space_cut 2e-2", {"null_space_cut": 0.02}, ""),
        ("--null_space_cut=3 y", {"null_space_cut": 3.0}, "y"),
        ("--null_space_mode post", {"null_space_mode": "post"}, ""),
        ("--null_space_rule auto", {"null_space_rule": "auto"}, ""),
        ("--projector_path=a=b.safetensors", {"projector_path": "a=b.safetensors"}, ""),
        ("--projector_path true", {"projector_path": "true"}, ""),
        ("a -- --null_space", {}, "a -- --null_space"),
        ("-null_space null_space", {}, "-null_space null_space"),
    ],
)
def test_flags_are_taken_off(line: str, flags: dict[str, Any], rest: str) -> None:
    assert run.take_flags(line.split()) == (flags, rest.split())


def test_every_key_is_a_flag() -> None:
    for key in KEYS:
        value = getattr(NullSpaceFlag(null_space=True, projector_path="p"), key)
        plain = getattr(value, "value", value)
        taken, rest = run.take_flags([f"--{key}", str(plain), "x"])
        assert taken == {key: plain}
        assert type(taken[key]) is type(plain)
        assert rest == ["x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--null_space_cut abc", "null_space_cut is 'abc': give a number"),
        ("--null_space_cut nan", "null_space_cut is 'nan': give a number"),
        ("--null_space_cut", "argument --null_space_cut: expected one argument"),
        ("--null_space_cut --ds_size 3", "argument --null_space_cut: expected one argument"),
        ("--projector_path=", "--projector_path needs a value"),
        ("--null_space=yes", "null_space is 'yes': give true or false"),
        ("--null_space_ct 1", "unknown flag '--null_space_ct'; did you mean '--null_space_cut'"),
        ("--null_spaces", "did you mean '--null_space'"),
        ("--null-space", "did you mean '--null_space'"),
        ("--null_space_mode sovle", "did you mean 'solve'"),
        ("--null_space_rule=energi", "did you mean 'energy'"),
        ("--null_space_l2 -1", "null_space_l2 is -1.0: it must be positive"),
    ],
)
def test_wrong_flags_are_refused(
    line: str, message: str, tmp_path: Path, capsys: Capture, plugged: list[dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match=message.partition("'")[0]):
        run.take_flags(line.split())
    assert main(["run", "--", script(tmp_path, "raise Exception"), *line.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith("alphaedit: error: ")
    assert message in err
    assert plugged == []


# ---------------------------------------------------------------------------------------------
# The script


def test_a_script_finds_what_python_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugged: list[dict[str, Any]]
) -> None:
    out, here = tmp_path / "out.json", os.getcwd()
    path = script(tmp_path / "sub", REPORT.format(out=str(out)))
    monkeypatch.chdir(tmp_path)
    argv, entries, name = sys.argv, list(sys.path), sys.modules["__main__"]
    own = ["--help", "-v", "--version", "--x", "y z"]
    typed = ["run", "--", "sub/script.py", own[0], "--null_space", *own[1:]]
    assert main(typed) == 0
    assert plugged == [{"null_space": True}]
    assert json.loads(out.read_text()) == [
        "__main__", "sub/script.py", ["sub/script.py", *own], str(Path(path).parent), str(tmp_path)
    ]  # fmt: skip
    assert sys.argv is argv
    assert sys.path == entries
    assert sys.modules["__main__"] is name
    monkeypatch.chdir(here)


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [("", 0, ""), ("0", 0, ""), ("3", 3, ""), ("None", 0, ""), ("'no [b]data'", 1, "no [b]data\n")],
)
def test_the_exit_status_is_the_scripts(
    tmp_path: Path, capsys: Capture, plugged: list[Any], code: str, status: int, said: str
) -> None:
    path = script(tmp_path, f"import sys\nsys.path = ['gone']\nsys.exit({code})")
    entries, kept = sys.path, list(sys.path)
    assert main(["run", "--", path]) == status
    assert capsys.readouterr().err == said
    assert sys.path is entries
    assert sys.path == kept


def test_argparse_speaks_for_itself(tmp_path: Path, capsys: Capture, plugged: list[Any]) -> None:
    path = script(tmp_path, "import argparse\nargparse.ArgumentParser().parse_args()")
    assert main(["run", "--", path, "--nonsense"]) == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


def test_its_errors_are_its_own(tmp_path: Path, plugged: list[Any]) -> None:
    argv, entries = sys.argv, list(sys.path)
    with pytest.raises(ZeroDivisionError):
        main(["run", "--", script(tmp_path, "1 / 0")])
    assert sys.argv is argv
    assert sys.path == entries


def test_our_errors_are_one_line(tmp_path: Path, capsys: Capture, plugged: list[Any]) -> None:
    text = "from alphaedit_plugin.common.errors import ConfigError\nraise ConfigError('not\\nthis')"
    assert main(["run", "--", script(tmp_path, text)]) == 2
    assert capsys.readouterr().err == "alphaedit: error: not this\n"


def test_logging_is_left_to_the_script(tmp_path: Path, plugged: list[Any]) -> None:
    log = tmp_path / "log"
    text = f"""
import logging
logging.basicConfig(filename={str(log)!r}, level=logging.INFO, format="%(message)s")
logging.info("heard")
"""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    assert main(["run", "--", script(tmp_path, text)]) == 0
    assert log.read_text() == "heard\n"
    assert (list(root.handlers), root.level) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "write alphaedit run -- SCRIPT"),
        (["script.py"], "write alphaedit run -- SCRIPT"),
        (["--"], "no script given"),
        (["--", "nowhere.py", "--null_space"], "no script at nowhere.py"),
        (["--", "."], "no script at ."),
    ],
)
def test_without_a_script(words: list[str], message: str, capsys: Capture) -> None:
    assert main(["run", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err


def test_help(capsys: Capture) -> None:
    assert main(["run", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: alphaedit run -- SCRIPT [ARGS…]\n")
    for key in KEYS:
        assert f"--{key}" in out
    assert "base=" not in out


# ---------------------------------------------------------------------------------------------
# The host


def test_without_a_host(tmp_path: Path) -> None:
    """In a process of its own, as a host that was imported once stays."""
    environment = {key: value for key, value in os.environ.items() if key != HOME}
    done = subprocess.run(
        [sys.executable, "-m", "alphaedit_plugin", "run", "--",
         script(tmp_path, "print('run')"), "--null_space"],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("alphaedit: error: EasyEdit is not here: git clone")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("where", ["script", "shell", "nowhere"])
def test_a_clone_around_the_script_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    clone, aside = tmp_path / "clone", tmp_path / "aside"
    for folder in (clone / "easyeditor", clone / "examples", aside):
        folder.mkdir(parents=True)
    (clone / "easyeditor" / "__init__.py").touch()
    monkeypatch.delenv(HOME, raising=False)
    monkeypatch.chdir(clone / "examples" if where == "shell" else aside)
    path = (clone / "examples" if where == "script" else aside) / "script.py"
    assert find_clone(path) == (None if where == "nowhere" else clone)
