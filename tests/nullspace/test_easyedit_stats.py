"""EasyEdit's files of second moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.nullspace.easyedit_stats import (
    HostMoments,
    read_host_moment,
    write_host_moment,
)
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import relative


def test_the_hosts_file_is_read(tmp_path: Path) -> None:
    """As EasyEdit's ``runningstats`` writes it: the raw sum, and the count beside it."""
    host = HostMoments(tmp_path, "openai-community/gpt2-xl", samples=500)
    path = host.path("transformer.h.13.mlp.c_proj")
    expected = "gpt2-xl/wikipedia_stats/transformer.h.13.mlp.c_proj_float32_mom2_500.npz"
    assert path == tmp_path / expected
    path.parent.mkdir(parents=True)
    keys = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
    np.savez(
        path,
        **{
            "mom2.mom2": keys.T @ keys,
            "mom2.count": 50,
            "mom2.constructor": "util.runningstats.SecondMoment()",
            "constructor": "util.runningstats.CombinedStat()",
            "sample_size": 500,
        },
    )
    moment = read_host_moment(path)
    assert moment.count == 50
    assert relative(moment.mean, torch.from_numpy(keys.T @ keys / 50)) < 1e-6


def test_a_missing_host_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no second moment at .*x\.npz"):
        read_host_moment(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"PK\x03\x04 cut off", b"\x93NUMPY"],
)
def test_a_damaged_host_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.npz is not a second moment"):
        read_host_moment(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {"mean": np.zeros(3)},
        {"mom2.mom2": np.zeros((2, 3)), "mom2.count": 4},
        {"mom2.mom2": np.zeros(4), "mom2.count": 4},
        {"mom2.mom2": np.zeros((0, 0)), "mom2.count": 4},
        {"mom2.mom2": np.array([None, {}], dtype=object), "mom2.count": 4},
        {"mom2.mom2": np.zeros((2, 2)), "mom2.count": [1, 2]},
    ],
)
def test_a_host_file_of_another_kind_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConfigError, match=r"x\.npz"):
        read_host_moment(tmp_path / "x.npz")


def test_a_single_array_in_place_of_the_host_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as stream:
        np.save(stream, np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="is not a second moment"):
        read_host_moment(tmp_path / "x.npz")


def test_what_is_written_is_what_the_host_writes(tmp_path: Path) -> None:
    """The keys, types and bits of its own ``runningstats``; and what is read is written again."""
    keys = torch.randn(50, 6)
    raw = keys.T @ keys
    write_host_moment(SecondMoment(raw.double(), 50), tmp_path / "new" / "x.npz", 500)
    with np.load(tmp_path / "new" / "x.npz", allow_pickle=False) as data:
        assert set(data) == {
            "mom2.mom2", "mom2.count", "mom2.constructor", "constructor", "sample_size",
        }  # fmt: skip
        assert data["mom2.mom2"].dtype == np.float32
        assert data["mom2.mom2"].tobytes() == raw.numpy().tobytes()
        assert (data["mom2.count"], data["sample_size"]) == (50, 500)
    again = read_host_moment(tmp_path / "new" / "x.npz")
    write_host_moment(again, tmp_path / "again.npz", 500)
    first, second = (np.load(path)["mom2.mom2"] for path in sorted(tmp_path.rglob("*.npz")))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(
    ("total", "message"),
    [
        (np.array([[1.0, 2.0], [0.0, 1.0]]), "not symmetric"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.ones((2, 2), dtype=int), "not real numbers"),
    ],
)
def test_a_host_file_with_impossible_numbers(
    tmp_path: Path, total: np.ndarray, message: str
) -> None:
    np.savez(tmp_path / "x.npz", **{"mom2.mom2": total, "mom2.count": 5})
    with pytest.raises(ConfigError, match=message):
        read_host_moment(tmp_path / "x.npz")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    moment = SecondMoment(torch.eye(2).double(), 1)
    with pytest.raises(ConfigError, match=r"x\.npz cannot be written"):
        write_host_moment(moment, tmp_path / "file" / "x.npz", 5)
