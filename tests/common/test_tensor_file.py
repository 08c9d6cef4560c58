from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.tensor_file import (
    DamagedFile,
    TensorFile,
    checksum,
    read_tensors,
    require_replaceable,
    write_tensors,
)
from tests.common.test_files import disk_of

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.float16)}
CONTENT = {"cut": 0.02, "layers": [1, 2]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "x.safetensors"
    write_tensors(path, TENSORS, CONTENT)
    return path


def test_round_trip(path: Path) -> None:
    tensors, content = read_tensors(path)
    assert content == CONTENT
    assert set(tensors) == set(TENSORS)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, TENSORS[name])
        assert tensor.dtype == TENSORS[name].dtype
    assert set(read_tensors(path, lambda name: name == "b")[0]) == {"b"}


def test_tensors_may_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    shared = {"one": whole, "two": whole, "part": whole[2:4], "across": whole.reshape(2, 3).T}
    write_tensors(tmp_path / "x", shared, {})
    tensors, _ = read_tensors(tmp_path / "x")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in shared.items())


def test_a_shape_is_compared_before_memory_is_taken(path: Path) -> None:
    file = TensorFile(path)
    assert torch.equal(file.tensor("a", (None, 3)), TENSORS["a"])
    for name, shape in (("a", (3, None)), ("a", (2, 3, 1)), ("b", (3,))):
        with pytest.raises(ValueError, match=rf"tensor {name} is F\d\d \[.*\], not F32 \["):
            file.tensor(name, shape)
    with pytest.raises(DamagedFile, match="does not contain"):
        file.tensor("c", (1,))


@given(st.integers(0, 400))
def test_any_truncation_is_noticed(tmp_path_factory: pytest.TempPathFactory, missing: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "x.safetensors"
    write_tensors(path, TENSORS, CONTENT)
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - 1 - missing)])
    with pytest.raises(DamagedFile, match=r"x\.safetensors is damaged"):
        read_tensors(path)


def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with disk_of(10_000), pytest.raises(ConfigError, match=r"x\.safetensors cannot be written: "):
        write_tensors(path, {"a": torch.zeros(100_000)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_only_a_file_of_the_same_kind_is_replaced(path: Path) -> None:
    require_replaceable(path.with_name("new"), "cut", lambda content: False)
    require_replaceable(path, "cut", lambda content: "cut" in content)
    path.with_name("notes").write_text("mine")
    for other in (path, path.with_name("notes")):
        with pytest.raises(ConfigError, match="exists and is not a patch: name another file"):
            require_replaceable(other, "patch", lambda content: "patch" in content)


def test_a_missing_file_is_just_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "x")


def test_checksums_tell_shapes_and_types_apart() -> None:
    zeros = torch.zeros(4)
    kinds = [zeros, zeros.reshape(2, 2), zeros.to(torch.int32), zeros[:0], zeros.reshape(4, 1)]
    assert len({checksum(tensor) for tensor in kinds}) == len(kinds)
    across = torch.arange(6.0).reshape(2, 3).T
    assert checksum(across) == checksum(across.contiguous())
