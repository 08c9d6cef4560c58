from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from alphaedit_plugin.common.console import progress, say


class Terminal(io.StringIO):
    """What says that someone watches."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "hide", "shown"),
    [(Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)],
)
def test_a_bar_is_shown_where_someone_watches(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, hide: bool, shown: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress(range(3), "editing", "batches", hide=hide)) == [0, 1, 2]
    assert ("editing" in stream.getvalue()) == shown


def test_a_bar_may_be_inside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a function of ours that a user calls in a loop with a bar."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in progress(range(2), "outer", "items"):
        assert list(progress(range(2), "inner", "items")) == [0, 1]


def test_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(Console(width=20), "[bold]one\x1b[2J\n" + "two " * 10)
    assert capsys.readouterr().out == "[bold]one\N{REPLACEMENT CHARACTER}[2J\n" + "two " * 10 + "\n"
