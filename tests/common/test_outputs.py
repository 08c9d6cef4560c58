"""Places to write to are refused early, and nothing half-done is left in them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError
from alphaedit_plugin.common.outputs import empty_folder, filled_folder, writable_folder, writing


def test_looking_makes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    assert writable_folder("save", str(place)) == empty_folder("save", str(place)) == place
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/in"])
def test_a_file_in_the_way(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"save=.* cannot be written: .*file is a file"):
        writable_folder("save", str(tmp_path / place))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"nothing can be made in .* \(Permission denied\)"):
        writable_folder("save", str(tmp_path / "new"))


def test_only_an_empty_folder_is_empty(tmp_path: Path) -> None:
    assert empty_folder("save", str(tmp_path)) == tmp_path
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        empty_folder("save", str(tmp_path))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a /proc")
@pytest.mark.parametrize("look", [writable_folder, empty_folder])
def test_a_place_where_not_even_root_may_write(look: Callable[[str, str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"save=/proc/x/y .*nothing can be made in /proc "):
        look("save", "/proc/x/y")


@pytest.mark.parametrize("exists", [False, True])
def test_a_filled_folder_takes_its_place(tmp_path: Path, exists: bool) -> None:
    place = tmp_path / "deep" / "new"
    if exists:
        place.mkdir(parents=True)
    with filled_folder(place) as unfinished:
        (unfinished / "x").touch()
        assert exists is place.is_dir()
    assert [found.name for found in place.iterdir()] == ["x"]
    assert list(place.parent.iterdir()) == [place]


def test_a_full_disk_leaves_nothing_and_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "new"

    def fill() -> None:
        with filled_folder(place) as unfinished:
            (unfinished / "x").touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(AlphaEditError, match=r"cannot write .*new: No space left"):
        fill()
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(AlphaEditError, match=r"cannot write .*: Is a directory"), writing(tmp_path):
        tmp_path.write_text("x")
