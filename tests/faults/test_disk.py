"""Full disks and SIGKILL while results are written: what is there is whole, or not there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import AlphaEditError
from alphaedit_plugin.common.files import filled_folder
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.experiments.report import MARKDOWN
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.full_checkpoint import save_checkpoint
from alphaedit_plugin.patches.lora_adapter import save_adapter, session_layers
from alphaedit_plugin.patches.sessions import save_session
from tests.common.test_files import disk_of
from tests.killed import killed_at
from tests.patches.test_lora_adapter import edited
from tests.saved import overrides_of
from tests.tiny import assert_same_weights, weights_of

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and kills as Linux does")
Write = Callable[[EditSession, Path], None]
WRITES: dict[str, Write] = {
    "patch": lambda session, folder: save_session(session, folder / "p.safetensors"),
    "adapter": lambda session, folder: save_adapter(
        session.lm, session_layers(session), folder / "adapter"
    ),
    "checkpoint": lambda session, folder: save_checkpoint(session.lm, folder / "full"),
}


@on_linux
@pytest.mark.parametrize("size", [0, 100, 5_000, 10_000])
@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_leaves_nothing_behind(
    gpt2: EditableModel, tmp_path: Path, name: str, size: int
) -> None:
    """One line says so, the edits in memory stay, and once there is room all is written."""
    session = edited(gpt2)
    before = weights_of(gpt2)
    with disk_of(size), pytest.raises(AlphaEditError, match=r"File too large|os error 27"):
        WRITES[name](session, tmp_path)
    assert not list(tmp_path.iterdir())
    assert_same_weights(gpt2, before)
    session.check_weights()
    WRITES[name](session, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@on_linux
def test_a_full_disk_keeps_the_file_that_was_there(gpt2: EditableModel, tmp_path: Path) -> None:
    session = edited(gpt2)
    save_session(session, tmp_path / "p.safetensors")
    whole = (tmp_path / "p.safetensors").read_bytes()
    session.undo()
    with disk_of(5_000), pytest.raises(AlphaEditError):
        save_session(session, tmp_path / "p.safetensors")
    assert (tmp_path / "p.safetensors").read_bytes() == whole


@on_linux
@pytest.mark.parametrize("event", ["os.chmod", "os.rename"])  # the folder is whole: not yet, yes
def test_an_edit_killed_while_it_saves(saved: Path, tmp_path: Path, event: str) -> None:
    """The model's folder is whole or not there, and the same command then works."""
    words = [
        "edit", *overrides_of(saved), "null_space=false", "base=rome", "base.use_moment=false",
        "request.prompt=The capital of {} is", "request.subject=Norland",
        "request.target_new=Rome", f"save={tmp_path / 'edited'}",
    ]  # fmt: skip
    killed_at(event, "*/edited.*.part*", words, tmp_path / "cache")
    assert not (tmp_path / "edited").exists()
    assert main(words) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "edited")


@on_linux
@pytest.mark.parametrize("event", ["open", "os.rename"])  # nothing is written; all is
def test_a_report_killed_while_it_is_written(tmp_path: Path, event: str) -> None:
    """An earlier report stays as it was until the new one is complete."""
    page = tmp_path / "out" / MARKDOWN
    page.parent.mkdir()
    page.write_text("earlier")
    words = [
        "compare", "compare.bases=[memit]", "compare.edits=2", "compare.retention=4",
        "compare.jobs=1", "compare.every=0", "model.moments.tokens=2000",
        f"compare.out={page.parent}",
    ]  # fmt: skip
    killed_at(event, f"*/{MARKDOWN}.*.part", words, tmp_path / "cache")
    assert page.read_text() == "earlier"


def test_a_folder_left_by_a_killed_run_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "edited.0123abcd.part").mkdir()
    with filled_folder(tmp_path / "edited") as unfinished:
        (unfinished / "x").touch()
    assert [path.name for path in (tmp_path / "edited").iterdir()] == ["x"]
