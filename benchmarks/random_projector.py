"""A projector onto a random subspace, of the same rank as a fitted one: what shrinking alone does.

    python -m benchmarks.random_projector fitted.safetensors random.safetensors

An edit with ``projector.path=random.safetensors`` loses as many directions as with the fitted
projector, but protects no key of the model more than another.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from alphaedit_plugin.common.tensor_file import TensorFile, write_tensors
from alphaedit_plugin.nullspace.projector import orthonormal


def main() -> None:
    """Copy a projector file, with every basis replaced by a random one of its shape."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("fitted", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    file = TensorFile(given.fitted)
    tensors = {name: file.tensor(name) for name in file.names}
    draws = torch.Generator().manual_seed(given.seed)
    for name in tensors:
        if name.endswith(".basis"):
            columns = torch.randn(tensors[name].shape, generator=draws, dtype=torch.float64)
            tensors[name] = orthonormal(columns)
    write_tensors(given.out, tensors, {**file.content, "corpus": f"random, seed {given.seed}"})


if __name__ == "__main__":
    main()
