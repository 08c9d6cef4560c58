"""``alphaedit export``: a patch in, an adapter or a checkpoint out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alphaedit_plugin.cli.export import server_note
from alphaedit_plugin.cli.main import main
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.sessions import save_session
from tests.patches.test_lora_adapter import edited, logits
from tests.saved import config_of, overrides_of
from tests.tiny import relative

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def session(saved: Path, monkeypatch: pytest.MonkeyPatch) -> EditSession:
    """Edits of the saved model, and their patch in ``p.safetensors``, here."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(saved)
    session = edited(load_model(config_of(saved).model))
    save_session(session, "p.safetensors")
    return session


def export(saved: Path, *words: str) -> int:
    return main(["export", "p.safetensors", *overrides_of(saved), *words])


@pytest.mark.parametrize("spelling", [[], ["--format", "peft"], ["--format=peft"], ["format=peft"]])
def test_an_adapter(
    saved: Path, session: EditSession, capsys: Capture, spelling: list[str]
) -> None:
    assert export(saved, *spelling, "out=new/adapter") == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()[1:4]] == [
        ["0", "5", "5", "0"], ["1", "7", "7", "0"], ["3", "11", "11", "0"],
    ]  # fmt: skip
    assert "highest rank 11: vllm serve … --enable-lora --max-lora-rank 16" in out
    base = AutoModelForCausalLM.from_pretrained("model")
    model = PeftModel.from_pretrained(base, "new/adapter")
    tokenizer = session.lm.tokenizer
    assert relative(logits(model, tokenizer), logits(session.lm.model, tokenizer)) < 1e-5


def test_a_chosen_rank(saved: Path, session: EditSession, capsys: Capture) -> None:
    assert export(saved, "out=adapter", "rank=3") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    assert [row[:3] for row in rows] == [["0", "3", "5"], ["1", "3", "7"], ["3", "3", "11"]]
    assert all(0.1 < float(row[3]) < 1 for row in rows)


def test_a_checkpoint(saved: Path, session: EditSession, capsys: Capture) -> None:
    assert export(saved, "--format", "full", "out=edited") == 0
    assert "the edited model is in edited" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained("edited")
    lm = EditableModel.wrap(model, AutoTokenizer.from_pretrained("edited"))
    for name, parameter in session.lm.model.named_parameters():
        assert torch.equal(parameter, lm.model.get_parameter(name)), name
    assert lm.tokenizer.get_vocab() == session.lm.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=pocket", "out=model"], "out=model is not empty"),
        (["out=text.txt"], "text.txt is a file; give a folder"),
        (["out="], "out is '': it must be a text that is not blank"),
        (["rank=0"], "rank is 0: it must be at least 1"),
        (["rank=x"], "rank is 'x'"),
        (["--format"], "--format needs one"),
        (["--format", "onnx"], "format is 'onnx': it must be 'peft' or 'full'"),
        (["other.safetensors"], "type alphaedit export PATCH"),
        (["out=new", "model.path=none"], "cannot load model 'none'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    saved: Path, session: EditSession, capsys: Capture, words: list[str], message: str
) -> None:
    assert export(saved, *words) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err
    assert not (saved / "new").exists()


def test_another_model_is_refused(saved: Path, session: EditSession, capsys: Capture) -> None:
    session.reset()
    session.lm.model.get_input_embeddings().weight.data.mul_(2)
    session.lm.model.save_pretrained("other")
    session.lm.tokenizer.save_pretrained("other")
    assert export(saved, "out=new", "model.path=other") == 2
    assert "p.safetensors is refused" in capsys.readouterr().err
    assert not (saved / "new").exists()


def test_a_rank_that_no_server_allows() -> None:
    assert "--max-lora-rank 8" in server_note(1)
    assert "export with rank=512" in server_note(600)
