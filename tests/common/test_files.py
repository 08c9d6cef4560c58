"""Files that are whole or not there, and that notice any change."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import (
    DamagedFile,
    checksum,
    read_artefact,
    replacing,
    require_writable,
    write_artefact,
)

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.float16)}
CONTENT = {"cut": 0.02, "layers": [1, 2]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "x.safetensors"
    write_artefact(path, TENSORS, CONTENT)
    return path


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_round_trip(path: Path) -> None:
    tensors, content = read_artefact(path)
    assert content == CONTENT
    assert set(tensors) == set(TENSORS)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, TENSORS[name])
        assert tensor.dtype == TENSORS[name].dtype
    assert set(read_artefact(path, lambda name: name == "b")[0]) == {"b"}
    assert list(path.parent.iterdir()) == [path]


@given(st.data())
def test_any_flipped_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    write_artefact(path, TENSORS, CONTENT)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        tensors, described = read_artefact(path)
    except DamagedFile:
        return
    assert described == CONTENT  # what padding there is may change
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@given(st.integers(0, 400))
def test_any_truncation_is_noticed(tmp_path_factory: pytest.TempPathFactory, missing: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "x.safetensors"
    write_artefact(path, TENSORS, CONTENT)
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - 1 - missing)])
    with pytest.raises(DamagedFile, match=r"x\.safetensors is damaged"):
        read_artefact(path)


def test_tensors_may_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    shared = {"one": whole, "two": whole, "part": whole[2:4], "across": whole.reshape(2, 3).T}
    write_artefact(tmp_path / "x", shared, {})
    found, _ = read_artefact(tmp_path / "x")
    assert all(torch.equal(found[name], tensor) for name, tensor in shared.items())


def test_a_missing_file_is_just_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_artefact(tmp_path / "x")


def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with disk_of(10_000), pytest.raises(ConfigError, match=r"x\.safetensors cannot be written: "):
        write_artefact(path, {"a": torch.zeros(100_000)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()

    def interrupted() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "sub" / "x"
    with pytest.raises(
        ConfigError, match="x cannot be written: what should be its folder is a file"
    ):
        write_artefact(below, TENSORS, CONTENT)
    with pytest.raises(
        ConfigError, match="x cannot be written: what should be its folder is a file"
    ):
        require_writable(below)
    with pytest.raises(ConfigError, match="is a folder: name a file in it"):
        require_writable(tmp_path)


def test_asking_leaves_nothing_but_folders(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "x")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "old").write_text("kept")
    require_writable(tmp_path / "old")
    assert (tmp_path / "old").read_text() == "kept"


def test_checksums_tell_shapes_and_types_apart() -> None:
    zeros = torch.zeros(4)
    kinds = [zeros, zeros.reshape(2, 2), zeros.to(torch.int32), zeros[:0], zeros.reshape(4, 1)]
    assert len({checksum(tensor) for tensor in kinds}) == len(kinds)
    across = torch.arange(6.0).reshape(2, 3).T
    assert checksum(across) == checksum(across.contiguous())
