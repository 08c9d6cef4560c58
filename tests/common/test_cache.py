"""The cache: keys, damage, two processes at once, folders that cannot be used."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.cache import Cache, hash_of
from alphaedit_plugin.common.errors import AlphaEditError, ConfigError

KEY = {"weights": "w", "layer": 3, "cut": None}


def test_the_platforms_folder_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHAEDIT_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("/cache") / name)
    assert Cache.default().folder == Path("/cache/alphaedit_plugin")
    monkeypatch.setenv("ALPHAEDIT_CACHE", "~/elsewhere")
    assert Cache.default().folder == Path.home() / "elsewhere"


def test_keys() -> None:
    assert hash_of(KEY) == hash_of(dict(reversed(KEY.items())))
    changed = [KEY | {"layer": 4}, KEY | {"layer": "3"}, KEY | {"more": 1}, KEY | {"cut": 0}]
    assert len({hash_of(key) for key in [KEY, *changed]}) == 5


@pytest.mark.parametrize("error", [AlphaEditError("bad"), OSError(), KeyError("x"), ValueError()])
def test_what_cannot_be_read_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def read(_: Path) -> None:
        raise error

    path = tmp_path / "x"
    path.write_text("damaged")
    assert Cache(tmp_path).stored(path, read) is None
    assert not path.exists()
    assert "recomputing what the cache held" in caplog.text


def test_what_is_absent_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Cache(tmp_path).stored(tmp_path / "x", Path.read_text) is None
    assert not caplog.records


def test_what_cannot_be_kept_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def write() -> None:
        raise ConfigError("no space left")

    Cache.keep(write)
    assert "not cached: no space left" in caplog.text


def test_a_folder_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    assert Cache.usable() == Cache(tmp_path / "cache")
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "file" / "cache"))
    assert Cache.usable() is None
    assert "nothing is cached" in caplog.text
    assert "what should be its folder is a file" in caplog.text


def compute_alone(folder: Path, queue: Any) -> None:
    with Cache(folder).alone("moments", KEY):
        queue.put("in")
        time.sleep(0.2)
        queue.put("out")


def test_processes_compute_one_after_another(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=compute_alone, args=(tmp_path, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    seen = [queue.get(timeout=30) for _ in range(6)]
    for process in processes:
        process.join()
    assert seen == ["in", "out"] * 3


def test_a_lock_is_let_go_on_error(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(KeyError), cache.alone("moments", KEY):
        raise KeyError
    with cache.alone("moments", KEY):
        pass
