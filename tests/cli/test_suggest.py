"""``alphaedit suggest``: what it proposes for the pocket model works on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.editor import NullSpaceEditor
from tests.saved import overrides_of

Capture = pytest.CaptureFixture[str]


def test_the_pocket_model(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "suggested"
    words = ["suggest.facts=10", "suggest.samples=3", f"suggest.out={out}"]
    assert main(["suggest", *words]) == 0
    assert (out / "suggest.png").read_bytes().startswith(b"\x89PNG")
    settings = yaml.safe_load((out / "model.yaml").read_text())
    assert settings["presets"]["spread"]["layers"] == [0]
    line = next(
        x for x in capsys.readouterr().out.splitlines() if x.startswith("bases that are sp")
    )
    config = load_config(line.partition(": ")[2].split())
    editor = NullSpaceEditor.from_config(config)
    requests = load_data(config).requests[:4]
    metrics, _, _ = editor.edit_requests(requests, sequential_edit=True, batch_size=4)
    assert [one["pre"]["rewrite_acc"] for one in metrics] != [[1.0]] * 4
    assert [one["post"]["rewrite_acc"] for one in metrics] == [[1.0]] * 4


def test_a_model_without_settings_needs_no_layers(saved: Path, capsys: Capture) -> None:
    words = [word for word in overrides_of(saved) if "layers" not in word]
    assert main(["suggest", *words, "data=pocket", f"suggest.out={saved / 'out'}"]) == 2
    assert "facts right" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("suggest.noise=0", "positive"),
        ("suggest.facts=0", "at least 1"),
        ("suggest.out=' '", "not blank"),
    ],
)
def test_bad_settings(override: str, message: str, capsys: Capture) -> None:
    assert main(["suggest", override]) == 2
    assert message in capsys.readouterr().err
