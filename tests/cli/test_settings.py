"""Each command has a schema of its own, and is answered without torch where no model is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alphaedit_plugin.cli.base import COMMANDS, refuse_unread
from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import ConfigError


@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        ("edit", "compare.edits=3", "edit does not read compare.edits: compare and tune do"),
        ("edit", "+compare.edits=3", "edit does not read compare.edits: compare and tune do"),
        ("edit", "experiment=pocket", "edit does not read experiment: compare and tune do"),
        (
            "fit",
            "data=zsre",
            "fit does not read data: compare, edit, evaluate, suggest and tune do",
        ),
        (
            "fit",
            "projector.path=p",
            "fit does not read projector.path: compare, edit, inspect, tune and verify do",
        ),
        ("compare", "journal=j", "compare does not read journal: edit does"),
        ("verify", "save=s", "verify does not read save: apply and edit do"),
        (
            "verify",
            "projector.l2=1",
            "verify does not read projector.l2: compare, edit and tune do",
        ),
        (
            "edit",
            "base=rome model=gpt2-xl seed=1 data.limit=3 data.path=x projector.l2=1 save=s",
            None,
        ),
        ("compare", "-m compare.edits=3 seed=1,2 null_space=true hydra/launcher=cores", None),
        ("export", "p --format full out=x model=pocket model.presets.single.lr=1", None),
        ("run", "save=s compare.edits=3", None),  # of a script's own
    ],
)
def test_only_a_setting_of_another_command_is_refused(
    command: str, words: str, told: str | None
) -> None:
    try:
        refuse_unread(command, words.split())
        said = None
    except ConfigError as error:
        said = str(error)
    assert said == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("edit base=rct", "did you mean 'rect'?"),
        ("edit base.alpha=3", "base.alpha is a setting of base=prune, not of base=memit"),
        ("edit data=zsre data.path=x", "zsRE can be read in two ways"),
        ("fit fit.dtype=int8", "fit.dtype is 'int8': it must be 'float32', 'bfloat16' or"),
        ("compare -m base=rome,rct", "did you mean 'rect'?"),
        ("compare -m base=memit,rect base.keep_percent=9", "a setting of base=rect, not of"),
        ("export x rank=0", "rank is 0: it must be at least 1"),
        ("inspect none.safetensors", "no projector file at none.safetensors"),
        ("verify none.safetensors", "no patch or journal at none.safetensors"),
        ("undo j batch_size=3", "undo reads no settings: remove 'batch_size=3'"),
    ],
)
def test_typing_errors_are_answered_before_torch_is_imported(words: str, told: str) -> None:
    code = (
        "import sys; from alphaedit_plugin.cli.main import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


COMMAND = """
from pydantic.dataclasses import dataclass

from alphaedit_plugin.cli.base import COMMANDS, Command
from alphaedit_plugin.common.validation import STRICT
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import MethodSettings


@dataclass(config=STRICT)
class GreetSettings(MethodSettings):
    name: str = "you"


def run(words, console):
    config = load_config(words, GreetSettings)
    console.print(config.name, config.base["name"], str(config.model.layers))


COMMANDS.register("greet", Command("greet", "Says hello.", (), run, GreetSettings))
"""


def test_a_command_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "greet.py").write_text(COMMAND)
    code = "import sys, greet; from alphaedit_plugin.cli.main import main; sys.exit(main())"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False,
            timeout=60, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        )  # fmt: skip

    assert run("greet", "name=Ada", "base=rome", "model=gpt2-xl").stdout == "Ada rome [17]\n"
    assert (
        "greet does not read data: compare, edit, evaluate, suggest and tune do"
        in run("greet", "data=x").stderr
    )
    assert "greet" in run("--help").stdout
    assert "edit does not read name: greet does" in run("edit", "name=x").stderr


def test_config_shows_what_a_command_reads(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        reads_settings = COMMANDS.get(name).schema is not None
        assert main(["config", name]) == (0 if reads_settings else 2)
    out = capsys.readouterr().out
    assert "suggest:" in out
    assert "converge:" in out
