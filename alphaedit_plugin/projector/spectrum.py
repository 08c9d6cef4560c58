"""Eigenvectors of a second moment: all of them, or the leading ones where few are needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.errors import ProjectorError
from alphaedit_plugin.projector.cut import Cut

LARGE = 2048  # below, all eigenvectors are cheaper than finding out how few will do
FEW = 1 / 32  # of all eigenvectors, up to which the leading ones alone are cheaper
STEPS = 12  # of subspace iteration
EXACT = 1e-6  # largest relative residual ‖CU − UΛ‖ / ‖Λ‖ of the leading ones


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of ``C``, descending.

    Attributes:
        values: ``(m,)`` float64; ``m`` is ``d_in``, or less where only leading ones were found.
        vectors: ``(d_in, m)`` float64.
        rank: how many of them the cut takes.
    """

    values: Tensor
    vectors: Tensor
    rank: int


def decompose(mean: Tensor, cut: Cut) -> Spectrum:
    """Eigendecompose ``C`` as far as the cut needs, on a GPU if there is one.

    ``C`` is symmetric, so this is ``eigh`` and not the reference's ``svd``. Where the cut takes few
    eigenvectors of a large ``C``, randomised subspace iteration (Halko et al. 2011, through
    `torch.svd_lowrank`) finds those alone; its residual is checked, and ``eigh`` does it if that
    is too large.

    Args:
        mean: ``C (d_in, d_in)`` float64.
        cut: decides how many are taken.

    Raises:
        ProjectorError: ``C`` is not finite.
        ConfigError: a value outside the rule's range.
    """
    if not torch.isfinite(mean).all():
        raise ProjectorError("the second moment is not finite: recompute it")
    home = mean.device
    placed = mean.cuda() if torch.cuda.is_available() else mean
    found = _leading(placed, cut) or _all(placed, cut)
    return Spectrum(found.values.to(home), found.vectors.to(home), found.rank)


def _all(mean: Tensor, cut: Cut) -> Spectrum:
    ascending, vectors = torch.linalg.eigh(mean)
    values = ascending.flip(0)
    return Spectrum(values, vectors.flip(1), cut.rank(values))


def _leading(mean: Tensor, cut: Cut) -> Spectrum | None:
    """The leading eigenvectors, or ``None`` where they are not few or not exact enough."""
    d_in = len(mean)
    if d_in < LARGE:
        return None
    few = int(FEW * d_in)
    with torch.random.fork_rng(devices=[mean.device] if mean.is_cuda else []):
        torch.manual_seed(0)
        vectors, values, _ = torch.svd_lowrank(mean, q=2 * few, niter=STEPS)
    vectors, values = vectors[:, :few], values[:few]
    rank = cut.rank_from_leading(values, d_in, mean.trace().item())
    if rank is None:
        return None
    used = vectors[:, :rank]
    residual = (mean @ used - used * values[:rank]).norm()
    if residual > EXACT * values.norm():
        return None
    return Spectrum(values, vectors, rank)
