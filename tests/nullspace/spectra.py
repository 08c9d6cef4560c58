"""Second moments with chosen spectra."""

from __future__ import annotations

import torch

from alphaedit_plugin.nullspace.second_moment import SecondMoment


def moment_with(eigenvalues: list[float], seed: int = 0) -> SecondMoment:
    """A second moment with the given spectrum, in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    return SecondMoment((basis * torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T, 1)
