"""The null-space projector ``P = I − U Uᵀ`` (AlphaEdit, Fang et al. 2025, eq. 6–8)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.nullspace.cut import Cut
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from alphaedit_plugin.nullspace.spectrum import decompose

logger = logging.getLogger(__name__)

REMEDY = "try projector=auto, which follows the model's own scale"


@dataclass(frozen=True)
class Projector:
    """Projects onto the null space of the keys of one layer.

    Attributes:
        basis: ``(d_in, m)`` float32, orthonormal: ``U``, the directions that old keys use, or
            the null space's own basis, whichever is smaller.
        eigenvalues: of ``C``, descending, as many as are known; kept for diagnosis.
        cut: how ``U`` was chosen.
        spans_null: ``basis`` is the null space's own.
        tokens: keys that ``C`` was made from; 0 where that is not known.
        null_eigenvalue: the mean one of the null space's directions; 0 where that is not known.
        source: the file it is of, or the text that it was fitted to, for people.
    """

    basis: Tensor
    eigenvalues: Tensor
    cut: Cut
    spans_null: bool = False
    tokens: int = 0
    null_eigenvalue: float = 0.0
    source: str = ""

    @classmethod
    def fit(cls, moment: SecondMoment, cut: Cut) -> Projector:
        """Eigendecompose ``C`` and keep the eigenvectors the cut selects, or all others.

        Raises:
            ProjectorError: ``C`` is not finite.
            ConfigError: the cut's value is outside its rule's range.
        """
        mean = moment.mean.double()
        found = decompose(mean, cut)
        spans_null = 2 * found.rank > len(found.vectors)
        basis = found.vectors[:, found.rank :] if spans_null else found.vectors[:, : found.rank]
        energy = (mean.trace() - found.values[: found.rank].sum()).clamp_min(0).item()
        null = energy / max(len(mean) - found.rank, 1)
        return cls(
            basis.float().contiguous(), found.values.float(), cut, spans_null, moment.count, null
        )

    @property
    def d_in(self) -> int:
        """Dimension of the keys."""
        return self.basis.shape[0]

    @property
    def null_dimension(self) -> int:
        """Dimension of the null space, ``d_in − r``."""
        return self.basis.shape[1] if self.spans_null else self.d_in - self.basis.shape[1]

    @property
    def rank(self) -> int:
        """``r``, the number of directions that old keys use."""
        return self.d_in - self.null_dimension

    def apply(self, columns: Tensor) -> Tensor:
        """``P columns``, ``(d_in, n)``, in the columns' own dtype."""
        once = self._pass(columns)
        # U is orthonormal to float32 rounding only; the second pass removes what that leaves.
        return once if self.spans_null else self._pass(once)

    def image(self, keys: Tensor) -> Tensor:
        """``P keys (d_in, n)`` in one pass, which `least_squares` follows by that of `adjoint`."""
        return self._pass(keys)

    def adjoint(self, images: Tensor) -> Tensor:
        """``Pᵀ images = P images (d_in, n)`` in one pass."""
        return self._pass(images)

    @cached_property
    def reduced(self) -> NullCoordinates:
        """The projector in coordinates of the null space; what it keeps is computed once."""
        return NullCoordinates(self)

    def _pass(self, columns: Tensor) -> Tensor:
        basis = self.basis.to(columns)
        inside = basis @ (basis.T @ columns)
        return inside if self.spans_null else columns - inside

    def project(self, delta: Delta) -> Delta:
        """``Δ P``: the same kind of delta, factored or dense."""
        if delta.right is None:
            return Delta(self.apply(delta.left.T).T)
        return Delta(delta.left, self.apply(delta.right))

    def seen(self, columns: Tensor) -> Tensor:
        """What old keys see of ``columns (d_in, n)``; its norm is that of ``Uᵀ columns``."""
        basis = self.basis.to(columns)
        inside = basis.T @ columns
        return columns - basis @ inside if self.spans_null else inside

    def leakage(self, delta: Delta) -> float:
        """``‖Δ U‖ / ‖Δ‖``: the share of a delta that old keys would see; 0 for a zero delta."""
        norm = delta.norm
        if norm == 0:
            return 0.0
        if delta.right is None:
            visible = self.seen(delta.left.double().T)
        else:
            visible = self.seen(delta.right.double()) @ delta.left.double().T
        return visible.norm().item() / norm

    @property
    def origin(self) -> str:
        """Whose ``U`` it is: figures measured with it say nothing of another's."""
        fitted = f"fitted on {self.tokens} tokens" if self.tokens else "of unknown origin"
        return ", ".join(part for part in (fitted, self.source) if part)

    @property
    def undersampled(self) -> str | None:
        """What is wrong with its ``C``, where that has seen too few keys to know their span."""
        if not 1 < self.tokens < self.d_in:  # EasyEdit's own files do not say
            return None
        return (
            f"fitted on {self.tokens} tokens, of which {self.d_in} dimensions need far more: at "
            f"least {self.d_in - self.tokens} of them count as unused only as no text was read; "
            "give a longer corpus, or raise model.moments.tokens"
        )

    def diagnosis(self) -> str | None:
        """What is wrong with the cut, with the numbers; ``None`` when it divides the space."""
        if self.null_dimension < 0.01 * self.d_in:
            effect = "P is near 0 and edits will do nothing"
        elif self.rank < 0.001 * self.d_in:
            effect = "P is near the identity and preserves nothing"
        else:
            return None
        spectrum = ""
        if len(self.eigenvalues):
            largest, smallest = self.eigenvalues[0].item(), self.eigenvalues[-1].item()
            spectrum = f" (eigenvalues span {smallest:.2e} to {largest:.2e})"
        return (
            f"the cut {self.cut} leaves a null space of {self.null_dimension} of {self.d_in} "
            f"dimensions{spectrum}: {effect}; {REMEDY}"
        )


@dataclass(frozen=True)
class NullCoordinates:
    """``Nᵀ``, with ``P = N Nᵀ`` and ``N (d_in, q)`` orthonormal: keys in ``q = d_in − r`` numbers.

    Where the projector has ``U``, ``N`` is the rest of an orthogonal matrix that begins with it.
    That is kept as LAPACK's reflectors, which take no more memory than ``U``.
    """

    projector: Projector

    @property
    def dimension(self) -> int:
        """``q``."""
        return self.projector.null_dimension

    def image(self, keys: Tensor) -> Tensor:
        """``Nᵀ keys (q, n)``."""
        if self.projector.spans_null:
            return self.projector.basis.to(keys).T @ keys
        return self._multiply(keys, transpose=True)[self.projector.rank :]

    def adjoint(self, images: Tensor) -> Tensor:
        """``N images (d_in, n)``."""
        if self.projector.spans_null:
            return self.projector.basis.to(images) @ images
        padding = images.new_zeros(self.projector.rank, images.shape[1])
        return self._multiply(torch.cat([padding, images]), transpose=False)

    def _multiply(self, columns: Tensor, *, transpose: bool) -> Tensor:
        reflectors, scales = (part.to(columns) for part in self._reflectors)
        return torch.ormqr(reflectors, scales, columns, left=True, transpose=transpose)

    @cached_property
    def _reflectors(self) -> tuple[Tensor, Tensor]:
        reflectors, scales = torch.geqrf(self.projector.basis.double())
        return reflectors.float(), scales.float()


def fit_projectors(moments: Mapping[int, SecondMoment], cut: Cut) -> dict[int, Projector]:
    """One projector per layer; a cut that degenerates is logged with the numbers."""
    projectors = {layer: Projector.fit(moment, cut) for layer, moment in moments.items()}
    warn_of_degenerate(projectors)
    return projectors


def warn_of_degenerate(projectors: Mapping[int, Projector]) -> None:
    """Log what is wrong with the cut of each projector, or with what it was fitted to."""
    for layer, projector in projectors.items():
        for problem in (projector.diagnosis(), projector.undersampled):
            if problem:
                logger.warning("layer %d: %s", layer, problem)


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the span of ``columns (d_in, m)``, float32."""
    return torch.linalg.qr(columns.double()).Q.float().contiguous()
