"""Text corpora."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.corpus import (
    corpus_from,
    corpus_of,
    corpus_on_hub,
    read_lines,
)


def test_lines(tmp_path: Path) -> None:
    text, jsonl = tmp_path / "text.txt", tmp_path / "text.jsonl"
    text.write_text("one\n\n  two \nZoë\n", encoding="utf-8")
    jsonl.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert list(read_lines(text)) == ["one", "two", "Zoë"]
    assert list(read_lines(jsonl)) == ["one", "two"]


@pytest.mark.parametrize("line", ["{broken", '{"other": 1}', "[1]", "5"])
def test_malformed_jsonl_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "one"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"text\.jsonl:2: not JSON with a 'text' field"):
        list(read_lines(path))


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no corpus at"):
        corpus_from(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match=r"no \.txt, \.jsonl, \.npy file in"):
        corpus_from(tmp_path)
    path = tmp_path / "text.txt"
    path.write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        list(read_lines(path))


def fake_hub(monkeypatch: pytest.MonkeyPatch, load: Any) -> Callable[[], Iterator[Any]]:
    """The texts of a hub whose ``load_dataset`` is ``load``."""
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return corpus_on_hub("some/set", "en", "train").texts


def test_a_hub_needs_the_datasets_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match="needs the datasets package"):
        corpus_on_hub("some/set", None, "train")


def test_a_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*words: str, **rest: Any) -> list[dict[str, str]]:
        asked.append((*words, rest))
        return [{"text": "one"}, {"text": "two"}]

    assert list(fake_hub(monkeypatch, load)()) == ["one", "two"]
    assert asked == [("some/set", "en", {"split": "train", "streaming": True})]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("no network\nsecond line"), "no network"),
        (RuntimeError(), "RuntimeError"),
        (KeyError("x"), "'x'"),
    ],
)
def test_whatever_a_hub_raises_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def rows() -> Any:
        yield {"text": "one"}
        raise error

    texts = fake_hub(monkeypatch, lambda *_, **__: rows())()
    assert next(texts) == "one"
    with pytest.raises(ConfigError, match=f"^cannot read some/set: {said}; give corpus=.*$"):
        next(texts)


def test_a_hub_without_a_text_field(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = fake_hub(monkeypatch, lambda *_, **__: [{"body": "one"}])
    with pytest.raises(ConfigError, match="no 'text' field, but 'body': name one"):
        list(texts())


@pytest.mark.parametrize("value", [None, 5, ["a"], [-1], {"a": 1}, "half \ud800"])
def test_neither_text_nor_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": value}) + "\n")
    with pytest.raises(ConfigError, match=r"x\.jsonl:1: 'text' is neither text nor token ids"):
        list(read_lines(path))
    texts = fake_hub(monkeypatch, lambda *_, **__: [{"text": value}])
    with pytest.raises(ConfigError, match="'text' of some/set is neither text nor token ids"):
        list(texts())


def test_token_ids(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"ids": [1, 2]}\n{"ids": []}\n{"ids": "text"}\n')
    assert list(corpus_from(tmp_path / "a.jsonl", "ids").texts()) == [[1, 2], [], "text"]
    np.save(tmp_path / "b.npy", np.array([[1, 2], [3, 4]], dtype=np.uint16))
    assert list(corpus_from(tmp_path / "b.npy").texts()) == [[1, 2], [3, 4]]
    np.save(tmp_path / "c.npy", np.arange(2500))
    rows = list(corpus_from(tmp_path / "c.npy").texts())
    assert [len(row) for row in rows] == [1024, 1024, 452]
    assert [token for row in rows for token in row] == list(range(2500))


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "b.TXT").write_text("two\n")
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "one"}\n', encoding="utf-8")
    (tmp_path / "sub" / "c.txt").write_text("three\n")
    (tmp_path / "readme.md").write_text("no\n")
    corpus = corpus_from(tmp_path)
    assert list(corpus.texts()) == list(corpus.texts()) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.5]), "needs whole numbers in rows"),
        (np.array(5), "needs whole numbers in rows"),
        (np.zeros((2, 2, 2), dtype=int), "needs whole numbers in rows"),
        (np.array([{}], dtype=object), "not a NumPy file"),
        (b"\x93NUMPY", "not a NumPy file"),
        (b"", "not a NumPy file"),
        ({"a": np.array([1])}, "several arrays"),
    ],
)
def test_an_array_of_another_kind(tmp_path: Path, array: Any, message: str) -> None:
    path = tmp_path / "x.npy"
    with path.open("wb") as stream:
        if isinstance(array, bytes):
            stream.write(array)
        elif isinstance(array, dict):
            np.savez(stream, **array)
        else:
            np.save(stream, array, allow_pickle=True)
    with pytest.raises(ConfigError, match=rf"x\.npy .*{message}"):
        list(corpus_from(path).texts())


def test_identities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal for equal content, wherever it lies; different for anything that is not."""
    one, copy, other = (tmp_path / folder / "t.txt" for folder in "abc")
    for path, text in ((one, "x\ny\n"), (copy, "x\ny\n"), (other, "x\nz\n")):
        path.parent.mkdir()
        path.write_text(text)
    assert corpus_from(one).identity == corpus_from(copy).identity
    fake_hub(monkeypatch, None)
    identities = {
        corpus_from(one).identity,
        corpus_from(other).identity,
        corpus_from(one, "body").identity,
        corpus_of("x", ["a", "b"]).identity,
        corpus_of("x", ["a\nb"]).identity,
        corpus_on_hub("a/b", None, "c").identity,
        corpus_on_hub("a", "b", "c").identity,
        corpus_on_hub("a", None, "c").identity,
    }
    assert len(identities) == 8
