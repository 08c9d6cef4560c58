"""Files and folders are whole or not there, and refused early where they cannot be written."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import (
    empty_folder,
    filled_folder,
    locked,
    replacing,
    require_writable,
    writable_folder,
    writing,
)

Refusal = Callable[[Path], object]


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_replaced_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x"
    for text in ("one", "two"):
        with replacing(path) as unfinished:
            unfinished.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(KeyboardInterrupt, KeyboardInterrupt), (OSError(errno.ENOSPC, "Disk full"), ConfigError)],
)
@pytest.mark.parametrize("write", [replacing, filled_folder])
def test_an_error_while_writing_leaves_what_was_there(
    tmp_path: Path, write: Any, error: Any, expected: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with write(path) as unfinished:
            (unfinished / "x" if unfinished.is_dir() else unfinished).write_text("half")
            raise error

    with pytest.raises(expected, match=r"^$|file cannot be written: Disk full"):
        fail()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


@pytest.mark.parametrize("exists", [False, True])
def test_a_filled_folder_takes_its_place(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "deep" / "new"
    if exists:
        folder.mkdir(parents=True)
    with filled_folder(folder) as unfinished:
        (unfinished / "x").touch()
        assert exists is folder.is_dir()
    assert [path.name for path in folder.iterdir()] == ["x"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_lock_is_released_on_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path / "deep" / "lock"):
            raise KeyError


def test_asking_leaves_nothing_but_folders(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "x")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "new" / "x").write_text("kept")
    require_writable(tmp_path / "new" / "x")
    assert (tmp_path / "new" / "x").read_text() == "kept"
    folder = tmp_path / "a" / "b"
    assert writable_folder("save", str(folder)) == empty_folder("save", str(folder)) == folder
    assert not (tmp_path / "a").exists()


def replace(path: Path) -> None:
    with replacing(path):
        pass


def lock(path: Path) -> None:
    with locked(path):
        pass


def overwrite(path: Path) -> None:
    with writing(path):
        path.write_text("x")


@pytest.mark.parametrize(
    ("look", "path", "message"),
    [
        (replace, "file/in/x", "cannot be written: what should be its folder is a file"),
        (require_writable, "file/in/x", "cannot be written: what should be its folder is a file"),
        (lock, "file/in/x", "in cannot be written: what should be its folder is a file"),
        (require_writable, "full", "full is a folder: name a file in it"),
        (overwrite, "full", "full cannot be written: Is a directory"),
        (lambda p: writable_folder("save", str(p)), "file", "save=.* written: .*file is a file"),
        (lambda p: writable_folder("save", str(p)), "file/in", "save=.* written: .*file is a file"),
        (lambda p: empty_folder("save", str(p)), "full", "save=.*full is not empty"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, look: Refusal, path: str, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full" / "deep").mkdir(parents=True)
    with pytest.raises(ConfigError, match=message):
        look(tmp_path / path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a /proc")
@pytest.mark.parametrize("look", [writable_folder, empty_folder])
def test_a_place_where_not_even_root_may_write(look: Callable[[str, str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"save=/proc/x/y .*nothing can be made in /proc "):
        look("save", "/proc/x/y")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"nothing can be made in .* \(Permission denied\)"):
        writable_folder("save", str(tmp_path / "new"))
