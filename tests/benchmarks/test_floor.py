"""The floor of a target search, on the pocket model."""

from __future__ import annotations

import pytest
from rich.console import Console

from benchmarks.floor import main


def test_every_batch_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=pocket", "data.limit=8", "batches=[1,8]", "model.target.steps=4"]
    main([*words, "model.moments.tokens=3000"], Console(width=160))
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "×" in line]
    assert [int(row[1]) for row in rows] == [1, 8]
    for row in rows:
        _, targets, *_, needed, executed, floor, multiple = (cell.strip() for cell in row[1:-1])
        assert float(executed) >= 1 > float(floor) > 0 < float(needed)
        assert float(multiple.rstrip("×")) == pytest.approx(float(targets) / float(floor), rel=0.5)
