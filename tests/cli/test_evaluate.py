"""``alphaedit evaluate``: edited checkpoints and adapters, whoever made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.data.pocket_world.model import load_pocket

Capture = pytest.CaptureFixture[str]
DATA = ["data=pocket", "data.limit=4", "evaluate.retention=5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model, edited four times: checkpoint, patch, and the model as it was."""
    folder = tmp_path_factory.mktemp("edited")
    model, tokenizer = load_pocket()
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    words = ["edit", *DATA[:2], "model.moments.tokens=3000", f"save={folder / 'edited'}"]
    assert main([*words, f"patch={folder / 'edits.safetensors'}"]) == 0
    return folder


def evaluated(capsys: Capture, path: Path, *words: str) -> dict[str, Any]:
    out = path.parent / "evaluation.json"
    command = [
        "evaluate",
        "model=custom",
        f"model.path={path}",
        *DATA,
        *words,
        f"evaluate.out={out}",
    ]
    capsys.readouterr()
    assert main(command) == 0
    assert "efficacy.success" in capsys.readouterr().out
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def test_a_checkpoint_beside_the_model_as_it_was(folder: Path, capsys: Capture) -> None:
    found = evaluated(capsys, folder / "edited", f"evaluate.reference={folder / 'model'}")
    assert found["model"]["efficacy.success"] > 0.7 > found["reference"]["efficacy.success"]
    assert found["reference"]["retention"] == 1  # of the pocket's facts, all are known
    assert 0 < found["model"]["locality_acc.neighbourhood"] <= 1
    alone = evaluated(capsys, folder / "edited")
    assert alone["reference"] is None
    assert alone["model"]["efficacy.success"] == found["model"]["efficacy.success"]
    assert "locality_acc.neighbourhood" not in alone["model"]


def test_an_adapter_is_merged(folder: Path, capsys: Capture) -> None:
    pytest.importorskip("peft")
    adapter = folder / "adapter"
    assert main(["export", str(folder / "edits.safetensors"), f"out={adapter}"]) == 0
    merged = evaluated(capsys, folder / "model", f"evaluate.adapter={adapter}")["model"]
    edited = evaluated(capsys, folder / "edited")["model"]
    for name in ("efficacy.success", "specificity.success", "retention"):
        assert merged[name] == pytest.approx(edited[name], abs=0.05)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate.adapter=nowhere"], "no adapter_config.json is there"),
        (["evaluate.facts.name=known"], "needs evaluate.reference"),
        (["evaluate.metrics=[efficasy]"], "did you mean 'efficacy'"),
        (["evaluate.metrics=[perplexity]"], "give evaluate.text=<a text file>"),
        (["compare.edits=3"], "evaluate does not read compare.edits"),
    ],
)
def test_what_does_not_fit_is_told(words: list[str], told: str, capsys: Capture) -> None:
    assert main(["evaluate", *DATA, *words]) == 2
    assert told in capsys.readouterr().err
