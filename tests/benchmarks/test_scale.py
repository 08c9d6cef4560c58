"""The system that is kept stops growing; one with an equation per key does not."""

from __future__ import annotations

from benchmarks.scale import main, measure


def test_what_is_kept_stops_growing_below_what_is_published() -> None:
    few, many, more = (measure((64, 16), 20, history, 1, 200) for history in (10, 200, 400))
    assert more.held <= many.held < many.published < many.dual_held < more.dual_held
    assert few.held < few.published
    assert few.dual is not None
    assert more.dual is None


def test_the_command_runs() -> None:
    assert main(["--shape", "32", "8", "--rank", "10", "--history", "0", "60"]) == 0
