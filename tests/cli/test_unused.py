"""A setting that a command does not use is named, with the commands that do."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from alphaedit_plugin.cli.unused import READERS, USED_BY, unused

from alphaedit_plugin.cli import COMMANDS
from alphaedit_plugin.cli.main import main
from alphaedit_plugin.config.schema import EditorConfig, ProjectorConfig


@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        (
            "edit",
            "compare.edits=3 fit.out=x",
            "compare.edits=3 (compare does), fit.out=x (fit does)",
        ),
        ("fit", "data=zsre", "data=zsre (edit, compare and suggest do)"),
        (
            "fit",
            "projector.path=p projector=auto",
            "projector.path=p (edit, compare and verify do)",
        ),
        ("compare", "journal=j save=s", "journal=j (edit does)"),  # save= is an error there
        ("verify", "p.safetensors save=s", "save=s (edit, apply and undo do)"),
        ("edit", "+compare.edits=3", "+compare.edits=3 (compare does)"),
        ("edit", "base=rome model=gpt2-xl seed=1 data.limit=3 projector.l2=1 save=s", None),
        ("compare", "-m compare.edits=3 seed=1,2 null_space=true hydra/launcher=cores", None),
        ("export", "p.safetensors --format full out=x model=pocket", None),
        ("config", "fit.out=x compare.edits=3", None),  # it shows all
        ("run", "save=s compare.edits=3", None),  # of a script's own
    ],
)
def test_what_is_not_used_is_named(command: str, words: str, told: str | None) -> None:
    expected = None if told is None else f"{command} does not use {told}"
    assert unused(command, words.split()) == expected


def test_the_table_names_what_there_is() -> None:
    assert {command.name for command in COMMANDS} >= READERS
    roots = {field.name for field in fields(EditorConfig)}
    assert {name for name in USED_BY if "." not in name} <= roots
    inner = {f"projector.{field.name}" for field in fields(ProjectorConfig)}
    assert {name for name in USED_BY if "." in name} <= inner


def test_it_is_one_warning_and_the_command_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(["fit", "compare.edits=3", "fit.out=p.safetensors", "model.moments.tokens=500"]) == 0
    )
    assert caplog.messages[0] == "fit does not use compare.edits=3 (compare does)"
    assert not [message for message in caplog.messages[1:] if "does not use" in message]
    assert Path("p.safetensors").exists()
