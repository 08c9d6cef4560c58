"""The command runs at toy size and writes its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.measure import Seconds
from benchmarks.runs import Row
from benchmarks.speed import larger, main


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


def test_the_wide_block_needs_no_model(tmp_path: Path) -> None:
    wide = ["--methods", "--history", "--wide", "64", "20", "50"]
    assert main([*wide, "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "speed.json").read_text())
    assert document["rows"] == []
    assert [growth["d_in"] for growth in document["growth"]] == [256]


def test_a_larger_batch_is_charged_the_least_it_can_cost() -> None:
    """Searches and keys for every edit; closed forms and writes once, if nothing else is known."""
    fewer = Row("alphaedit", "host", 2, Seconds(5.0, 3.0, 8.0, 4.0), 7, 2)
    assert larger(fewer, 16, None).seconds == Seconds(5.0, 3.0, 1.0, 0.5)
    assert larger(fewer, 16, 32.0).seconds == Seconds(5.0, 3.0, 2.0, 0.5)
    assert (larger(fewer, 16, None).batch, larger(fewer, 16, None).measured) == (16, 2)
