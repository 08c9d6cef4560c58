"""Eigenvectors of a second moment: all of them, or the leading ones where few are needed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ProjectorError
from alphaedit_plugin.common.rng import seeded
from alphaedit_plugin.nullspace.cut import Cut, CutRule

logger = logging.getLogger(__name__)

LARGE = 2048  # below, all eigenvectors are cheaper than finding out how few will do
FEW = 1 / 32  # of all eigenvectors, up to which the leading ones alone are cheaper
STEPS = 12  # of subspace iteration
SPARE = 16  # more vectors than twice those wanted, for when these are very few
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
    cut.check(len(mean))
    if torch.cuda.is_available():
        try:
            found = _decompose(mean.cuda(), cut)
            return Spectrum(found.values.to(mean), found.vectors.to(mean), found.rank)
        except torch.OutOfMemoryError:
            logger.warning("the GPU has no memory for this: decomposing on the CPU")
    return _decompose(mean.cpu(), cut)


def _decompose(mean: Tensor, cut: Cut) -> Spectrum:
    return _leading(mean, cut) or _all(mean, cut)


def _all(mean: Tensor, cut: Cut) -> Spectrum:
    try:
        ascending, vectors = torch.linalg.eigh(mean)
    except torch.linalg.LinAlgError as error:
        raise ProjectorError(f"the second moment has no eigenvectors: {error}") from None
    values = ascending.flip(0)
    return Spectrum(values, vectors.flip(1), cut.rank(values))


def _leading(mean: Tensor, cut: Cut) -> Spectrum | None:
    """The leading eigenvectors, or ``None`` where they are not few or not exact enough."""
    d_in = len(mean)
    few = int(FEW * d_in)
    by_rank = cut.rule is CutRule.rank
    if d_in < LARGE or cut.rule is CutRule.auto or (by_rank and cut.value > few):
        return None
    few = max(1, int(cut.value)) if by_rank else few
    with seeded(0):
        vectors, values, _ = torch.svd_lowrank(mean, q=2 * few + SPARE, niter=STEPS)
    vectors, values = vectors[:, :few], values[:few]
    rank = cut.rank_from_leading(values, d_in, mean.trace().item())
    if rank is None:
        return None
    used = vectors[:, :rank]
    residual = (mean @ used - used * values[:rank]).norm()
    if residual > EXACT * values.norm():
        return None
    return Spectrum(values, vectors, rank)
