"""Text corpora."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.data.corpus import read_corpus, stream_hub
from alphaedit_plugin.errors import ConfigError


def test_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one\n\n  two \nZoë\n", encoding="utf-8")
    assert list(read_corpus(path)) == ["one", "two", "Zoë"]


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert list(read_corpus(path)) == ["one", "two"]


@pytest.mark.parametrize("line", ["{broken", '{"other": 1}', "[1]", "5"])
def test_malformed_jsonl_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "one"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"text\.jsonl:2: not JSON with a 'text' field"):
        list(read_corpus(path))


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no corpus at"):
        list(read_corpus(tmp_path / "none.txt"))
    path = tmp_path / "text.txt"
    path.write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        list(read_corpus(path))


def test_hub_without_the_datasets_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match="needs the datasets package"):
        list(stream_hub("some/set", None))


def fake_datasets(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(name: str, config: str, **rest: Any) -> list[dict[str, str]]:
        asked.append((name, config, rest))
        return [{"text": "one"}, {"text": "two"}]

    fake_datasets(monkeypatch, load)
    assert list(stream_hub("some/set", "en")) == ["one", "two"]
    assert asked == [("some/set", "en", {"split": "train", "streaming": True})]


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nsecond line")

    fake_datasets(monkeypatch, load)
    with pytest.raises(ConfigError, match="cannot read some/set: no network; give") as caught:
        list(stream_hub("some/set", None))
    assert "second line" not in str(caught.value)


def test_hub_without_a_text_field(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, lambda *_, **__: [{"body": "one"}])
    with pytest.raises(ConfigError, match="no 'text' field"):
        list(stream_hub("some/set", None))
