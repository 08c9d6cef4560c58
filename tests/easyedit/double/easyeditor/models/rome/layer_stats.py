from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import torch

DIRECTIONS = 12  # that old keys use, of any module


def layer_stats(
    model: Any,
    tokenizer: Any,
    layer_name: str,
    stats_dir: str,
    ds_name: str,
    to_collect: list[str],
    model_name: str | None = None,
    sample_size: int | None = None,
    precision: str | None = None,
    hparams: Any = None,
) -> Any:
    """``.mom2.moment()`` is the second moment of the module's inputs, here a made-up one."""
    module = model.get_submodule(layer_name)
    d_in = module.weight.shape[1 if isinstance(module, torch.nn.Linear) else 0]
    generator = torch.Generator().manual_seed(zlib.crc32(f"{layer_name}|{ds_name}".encode()))
    basis = torch.linalg.qr(torch.randn(d_in, d_in, generator=generator))[0]
    spectrum = torch.full((d_in,), 1e-2)
    spectrum[:DIRECTIONS] = 0.1
    moment = (basis * spectrum) @ basis.T
    return SimpleNamespace(mom2=SimpleNamespace(moment=lambda: moment))
