"""What a projector costs: ours against the reference's full SVD and dense ``U Uᵀ``.

    python -m benchmarks.projector [--d-in 6400] [--rank-share 0.1] [--out runs/projector.json]

The second moment is synthetic: a random basis, and eigenvalues that fall as ``1/i``, the slow decay
that keys of Llama's and GPT's down-projections show, so scaled that the published cut of 2e-2 takes
``--rank-share`` of them. What a file takes depends on that share and on the shape alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from alphaedit_plugin.models.editable import EditableModel, dtype_name
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import load_projectors, save_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from alphaedit_plugin.nullspace.spectrum import decompose

PUBLISHED = 2e-2
LLAMA_D_IN, LLAMA_LAYERS = 14336, 5  # Llama 3 8B, and the layers that AlphaEdit edits
FEW = 1 / 64  # of all eigenvectors: a cut that takes so few goes to the partial solver

T = TypeVar("T")


@dataclass
class Row:
    """One measurement: what, how long, and how far from the exact projector or subspace."""

    what: str
    seconds: float
    rank: int
    difference: float = 0.0


@dataclass
class Size:
    """A file: of what, and how many bytes, against dense float32 matrices."""

    what: str
    layers: int
    bytes: int
    dense: int


def eigenvalues(d_in: int, rank_share: float) -> Tensor:
    """``(d_in,)`` float64, falling as ``1/i``; ``rank_share`` of them are above `PUBLISHED`."""
    places = torch.arange(1, d_in + 1, dtype=torch.float64)
    return PUBLISHED * (rank_share * d_in) / places


def synthetic_moment(d_in: int, rank_share: float) -> SecondMoment:
    """A second moment with `eigenvalues`, in a random basis."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d_in, d_in, dtype=torch.float64, generator=generator)).Q
    total = (basis * eigenvalues(d_in, rank_share)) @ basis.T
    return SecondMoment((total + total.T) / 2, 1)


def reference_projector(mean: Tensor, rank: int, dtype: torch.dtype) -> Tensor:
    """AlphaEdit's: singular vectors behind the cut, ``P = U₀ U₀ᵀ``, dense."""
    u, _, _ = torch.linalg.svd(mean.to(dtype), full_matrices=False)
    return u[:, rank:] @ u[:, rank:].T


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What ``call`` returns, and the seconds that took."""
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def measure_times(moment: SecondMoment) -> list[Row]:
    """The reference in its own precision and in ours, and ours for two cuts."""
    mean, d_in = moment.mean, len(moment.total)
    published, few = Cut(CutRule.absolute, PUBLISHED), Cut(CutRule.rank, int(FEW * d_in))
    ours, seconds = timed(lambda: Projector.fit(moment, published))
    dense, slow = timed(lambda: reference_projector(mean, ours.rank, torch.float32))
    exact, slower = timed(lambda: reference_projector(mean, ours.rank, torch.float64))
    leading, partial = timed(lambda: decompose(mean, few))
    return [
        Row("reference: float32 svd, dense U Uᵀ", slow, ours.rank, _apart(dense.double(), exact)),
        Row("the same in float64", slower, ours.rank),
        Row(f"ours: float64 eigh, {published}", seconds, ours.rank,
            _apart(ours.apply(torch.eye(len(mean)).double()), exact)),
        Row(f"ours: leading ones alone, {few}", partial, leading.rank,
            _residual(mean, leading.vectors[:, : leading.rank])),
    ]  # fmt: skip


def _apart(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def _residual(mean: Tensor, vectors: Tensor) -> float:
    """``‖C U − U (Uᵀ C U)‖ / ‖C U‖``: 0 where the columns span eigenvectors."""
    image = mean @ vectors
    return ((image - vectors @ (vectors.T @ image)).norm() / image.norm()).item()


def measure_size(rank_share: float, dtype: torch.dtype) -> list[Size]:
    """One real layer file of Llama 3 8B's shape, written and read; five by arithmetic."""
    rank = int(rank_share * LLAMA_D_IN)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(LLAMA_D_IN, rank, generator=generator)).Q
    values = eigenvalues(LLAMA_D_IN, rank_share).float()
    lm = _shaped_like_llama()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.safetensors"
        save_projectors(lm, {0: Projector(basis.contiguous(), values, Cut())}, path, dtype=dtype)
        one = path.stat().st_size
        assert load_projectors(lm, [0], path)[0].rank == rank
    dense, name = 4 * LLAMA_D_IN**2, dtype_name(dtype)
    return [
        Size(f"measured, {name}", 1, one, dense),
        Size(f"computed, {name}", LLAMA_LAYERS, LLAMA_LAYERS * one, LLAMA_LAYERS * dense),
    ]


def _shaped_like_llama() -> EditableModel:
    shape = {"hidden_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(
        vocab_size=8, num_hidden_layers=1, intermediate_size=LLAMA_D_IN, **shape
    )  # fmt: skip
    return EditableModel.wrap(LlamaForCausalLM(config), None)


def show(console: Console, d_in: int, rows: list[Row], sizes: list[Size]) -> None:
    """Both tables."""
    times = Table("what", "seconds", "faster", "r", "error", title=f"d_in = {d_in}")
    for row in rows:
        faster = f"{rows[0].seconds / row.seconds:.1f}×"
        times.add_row(
            row.what, f"{row.seconds:.2f}", faster, str(row.rank), f"{row.difference:.1e}"
        )
    console.print(times)
    files = Table("file", "layers", "MB", "dense MB", "smaller", title="Llama 3 8B's shape")
    for size in sizes:
        files.add_row(
            size.what, str(size.layers), f"{size.bytes / 1e6:.0f}", f"{size.dense / 1e6:.0f}",
            f"{size.dense / size.bytes:.1f}×",
        )  # fmt: skip
    console.print(files)


def machine() -> dict[str, Any]:
    """Where it was measured; other work on the same cores is not known to it."""
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def main() -> None:
    """Measure, print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-in", type=int, default=2048)
    parser.add_argument("--rank-share", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("runs/projector.json"))
    given = parser.parse_args()
    rows = measure_times(synthetic_moment(given.d_in, given.rank_share))
    sizes = [
        size
        for dtype in (torch.float32, torch.float16)
        for size in measure_size(given.rank_share, dtype)
    ]
    show(Console(), given.d_in, rows, sizes)
    found = {
        "d_in": given.d_in, "rank_share": given.rank_share, "machine": machine(),
        "times": [asdict(row) for row in rows], "sizes": [asdict(size) for size in sizes],
    }  # fmt: skip
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
