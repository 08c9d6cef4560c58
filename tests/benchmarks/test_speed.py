"""The command runs at toy size and writes its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.speed import main


def test_the_command_writes_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "speed.json").read_text())
    sides = {(row["method"], row["side"], row["batch"]) for row in document["rows"]}
    assert {("alphaedit", side, batch) for side in ("plain", "ours") for batch in (1, 4)} <= sides
    assert all(check["holds"] for check in document["checks"])
    found = [(growth["d_in"], growth["history"]) for growth in document["growth"]]
    assert found == [(128, 0), (128, 50), (256, 50)]
    assert document["skipped"]
    page = (tmp_path / "speed.md").read_text()
    assert "| AlphaEdit | 4 | plain |" in page
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert "report:" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--batches", "0"], ["--model", "none"]])
def test_a_wrong_option_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
