"""The reference's dense file: read without trust in it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import ProjectorError
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.reference import load_reference

D_IN = 128


def dense(rank: int, seed: int = 0) -> torch.Tensor:
    """``U₀ U₀ᵀ`` in float32, with a null space of ``D_IN − rank`` dimensions."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=generator)).Q[:, rank:]
    return basis @ basis.T


@pytest.mark.parametrize("ranks", [(5, 100), (0, 128), (64, 65), (1, 127)])
def test_layers_are_taken_in_order(
    gpt2: EditableModel, tmp_path: Path, ranks: tuple[int, int]
) -> None:
    stack = torch.stack([dense(rank, seed) for seed, rank in enumerate(ranks)])
    torch.save(stack, tmp_path / "p.pt")
    found = load_reference(gpt2, [3, 1], tmp_path / "p.pt")
    assert list(found) == [3, 1]
    columns = torch.randn(D_IN, 4)
    for projector, matrix, rank in zip(found.values(), stack, ranks, strict=True):
        assert projector.rank == rank
        assert projector.basis.shape[1] == min(rank, D_IN - rank)
        torch.testing.assert_close(projector.apply(columns), matrix @ columns, rtol=1e-4, atol=1e-4)


def test_a_file_of_an_old_torch(gpt2: EditableModel, tmp_path: Path) -> None:
    torch.save(dense(5)[None], tmp_path / "p.pt", _use_new_zipfile_serialization=False)
    assert load_reference(gpt2, [1], tmp_path / "p.pt")[1].rank == 5


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("by_torch", [True, False])
def test_nothing_in_it_is_executed(gpt2: EditableModel, tmp_path: Path, by_torch: bool) -> None:
    path, trap = tmp_path / "p.pt", tmp_path / "trap"
    if by_torch:
        torch.save(Malicious(trap), path)
    else:
        path.write_bytes(pickle.dumps(Malicious(trap)))
    with pytest.raises(ProjectorError, match=r"p\.pt is not a file of tensors"):
        load_reference(gpt2, [1], path)
    assert not trap.exists()
    with pytest.raises(ProjectorError) as caught:
        load_reference(gpt2, [1], path)
    assert "weights_only" not in str(caught.value)
    if not by_torch:
        pickle.loads(path.read_bytes())
        assert trap.exists()  # it is a trap indeed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(2, D_IN, D_IN), r"holds 2 projectors, but layers \[1\]"),
        (torch.zeros(1, 3, 3), "p.pt is for keys of 3 dimensions, but this model's .* has 128"),
        (torch.zeros(D_IN, D_IN), r"holds \(128, 128\)"),
        (torch.zeros(2, 0, 0), r"holds \(2, 0, 0\)"),
        ([torch.zeros(D_IN, D_IN)], "holds list"),
        ({"a": 1}, "holds dict"),
        (2 * torch.eye(D_IN)[None], "not an orthogonal projector"),
        (torch.full((1, D_IN, D_IN), torch.nan), "not an orthogonal projector"),
        (torch.randn(1, D_IN, D_IN), "not an orthogonal projector"),
        (torch.eye(D_IN)[None] / 2, "not an orthogonal projector"),
        (torch.eye(D_IN)[None].to_sparse(), "holds sparse"),
        (torch.eye(D_IN)[None].to(torch.complex64), "holds torch.complex64"),
    ],
)
def test_what_is_no_stack_of_projectors(
    gpt2: EditableModel, tmp_path: Path, content: Any, message: str
) -> None:
    torch.save(content, tmp_path / "p.pt")
    with pytest.raises(ProjectorError, match=message):
        load_reference(gpt2, [1], tmp_path / "p.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, 3000, -10])
def test_a_truncated_file(gpt2: EditableModel, tmp_path: Path, keep: int) -> None:
    torch.save(dense(5)[None], tmp_path / "p.pt")
    (tmp_path / "p.pt").write_bytes((tmp_path / "p.pt").read_bytes()[:keep])
    with pytest.raises(ProjectorError, match=r"p\.pt is not a file of tensors"):
        load_reference(gpt2, [1], tmp_path / "p.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_to_its_rounding(
    gpt2: EditableModel, tmp_path: Path, dtype: torch.dtype
) -> None:
    torch.save(dense(5)[None].to(dtype), tmp_path / "p.pt")
    found = load_reference(gpt2, [1], tmp_path / "p.pt")[1]
    columns = torch.randn(D_IN, 4)
    assert found.rank == 5
    apart = (found.apply(columns) - dense(5) @ columns).norm() / columns.norm()
    assert apart < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("start", ["\n<!DOCTYPE html>", "\ufeff<html>", "<!-- x -->", "<?xml ?>"])
def test_a_web_page_under_its_name(gpt2: EditableModel, tmp_path: Path, start: str) -> None:
    (tmp_path / "p.pt").write_text(f"{start}<title>Sign in</title>", encoding="utf-8")
    with pytest.raises(ProjectorError, match=r"p\.pt is a web page: the download failed"):
        load_reference(gpt2, [1], tmp_path / "p.pt")


def test_it_can_be_looked_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.pt"
    torch.save(torch.stack([dense(40), torch.zeros(D_IN, D_IN)]), path)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "AlphaEdit's own format, which names neither model, layers nor corpus" in out
    assert "88 (69%)" in out
    assert "projector 1: " in out
    assert "P is near 0 and edits will do nothing" in out
    torch.save({"P": 1}, path)
    assert main(["inspect", str(path)]) == 2
    assert "p.pt holds dict, where AlphaEdit's files hold one projector per layer" in (
        capsys.readouterr().err
    )


def test_no_file(gpt2: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(ProjectorError, match="no projector file at"):
        load_reference(gpt2, [1], tmp_path / "p.pt")
    with pytest.raises(ProjectorError, match="not a file of tensors"):
        load_reference(gpt2, [1], tmp_path)
