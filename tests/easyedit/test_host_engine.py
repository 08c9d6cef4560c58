"""``host=easyedit``; with the real host: tests/host/test_bridge.py."""

from __future__ import annotations

import pytest

from alphaedit_plugin.common.errors import (
    RequestError,
)
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.easyedit.host_engine import host_row


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("In {x: 1} the mother of {} is", "Ann"),
        ("In } the mother of {} is", "Ann"),
        ("The mother of {} is", "{x} Ann"),
        ("The mother of {subject} in {} is", "Ann"),
    ],
)
def test_braces_that_the_host_would_misread_are_refused(prompt: str, answer: str) -> None:
    with pytest.raises(RequestError, match="misreads braces"):
        host_row(Request.parse(prompt, "Bob", answer))
