"""What an entry says of its edits."""

from __future__ import annotations

import pytest

from alphaedit_plugin.editing.entry import Search


@pytest.mark.parametrize(
    ("probability", "accuracy", "why"),
    [(0.01, 0.5, "search"), (0.9, 0.5, "write"), (0.9, 1.0, None), (0.01, 1.0, None)],
)
def test_what_is_to_blame_for_an_answer_that_is_not_given(
    probability: float, accuracy: float, why: str | None
) -> None:
    assert Search(1.0, probability).unlearnt(accuracy) == why
