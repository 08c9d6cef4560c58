"""What is on this machine is loaded from it, before anything is looked for on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.models import pretrained as module
from alphaedit_plugin.models.pretrained import is_at_hand, pretrained

HELD = "somebody/held"


class Kind:
    """Notes how it is asked for a checkpoint; the cache may hold only a part of it."""

    def __init__(self, whole: bool = True) -> None:
        self.whole, self.asked = whole, list[bool]()

    def from_pretrained(self, path: str, **settings: Any) -> str:
        assert settings["trust_remote_code"] is False
        self.asked.append(settings.get("local_files_only", False))
        if self.asked[-1] and not self.whole:
            raise OSError("no such file in the cache")
        return path


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(path: str, name: str) -> str | None:
        return "/cache/x" if (path, name) == (HELD, "model.safetensors.index.json") else None

    monkeypatch.setattr(module, "try_to_load_from_cache", look)


@pytest.mark.parametrize(
    ("path", "whole", "asked"),
    [(HELD, True, [True]), (HELD, False, [True, False]), ("somebody/other", True, [False])],
)
def test_cached_files_come_first(path: str, whole: bool, asked: list[bool]) -> None:
    kind = Kind(whole)
    assert pretrained(kind, path) == path
    assert kind.asked == asked


def test_what_is_at_hand(tmp_path: Path) -> None:
    assert is_at_hand(str(tmp_path))
    assert is_at_hand(HELD)
    assert not is_at_hand(HELD, "other.gguf")
    assert not is_at_hand("somebody/other")


def test_a_path_that_is_no_hub_name_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not is_at_hand("/no/such/folder")
