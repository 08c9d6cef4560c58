"""Progress bars are for people who watch: on a terminal, and where they have not said no."""

from __future__ import annotations

import io
import sys

import pytest

from alphaedit_plugin.common.progress import progress


class Terminal(io.StringIO):
    """What says that somebody watches."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "switch", "hide", "shown"),
    [
        (Terminal(), None, False, True),
        (Terminal(), "", False, True),
        (Terminal(), "1", False, False),
        (Terminal(), None, True, False),
        (io.StringIO(), None, False, False),
    ],
)
def test_a_bar_is_shown_to_whom_it_is_for(
    monkeypatch: pytest.MonkeyPatch,
    stream: io.StringIO,
    switch: str | None,
    hide: bool,
    shown: bool,
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if switch is not None:
        monkeypatch.setenv("TQDM_DISABLE", switch)
    assert list(progress(range(3), desc="editing", hide=hide)) == [0, 1, 2]
    assert bool(stream.getvalue()) == shown
