from __future__ import annotations

from alphaedit_plugin.common.errors import LONGEST, counted, quoted


def test_a_long_text_is_quoted_by_its_ends() -> None:
    assert quoted("word") == "'word'"
    shown = quoted("a" + "x" * 5000 + "z")
    assert len(shown) == LONGEST
    assert shown.startswith("'axx")
    assert shown.endswith("xxz'")
    assert "…" in shown


def test_one_is_not_many() -> None:
    assert [counted(count, "thread") for count in (0, 1, 2)] == [
        "0 threads",
        "1 thread",
        "2 threads",
    ]
