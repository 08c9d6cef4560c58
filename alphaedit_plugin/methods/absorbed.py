"""Keys that are more than their space has dimensions, as one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.methods.dual import CHUNK, ReducedMap, cholesky, placed


@dataclass(frozen=True)
class AbsorbedKeys:
    """``L⁻¹ H``, where ``L Lᵀ = G + w I`` and ``G = M Mᵀ``, ``M = H Kp``.

    With ``N = H K`` of later keys, ``(M Mᵀ + N Nᵀ + w I)⁻¹ = L⁻ᵀ (I + L⁻¹N (L⁻¹N)ᵀ)⁻¹ L⁻¹``. So
    these have under this map, with a weight of 1, the delta that they have under ``H`` beside
    ``Kp``, with ``w``: a `DualSystem` of this map grows by them, and needs ``Kp`` no more.

    Attributes:
        key_map: ``H``.
        weight: ``w > 0``.
        triangles: ``(q, q)`` float64: ``G`` below the diagonal, ``Lᵀ`` on it and above.
        diagonal: ``(q,)`` of ``G``.
        dtype: of the images under ``H``.
    """

    key_map: ReducedMap
    weight: float
    triangles: Tensor
    diagonal: Tensor
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        key_map: ReducedMap,
        weight: float,
        groups: Sequence[Sequence[Tensor]],
        device: torch.device,
        before: AbsorbedKeys | None = None,
    ) -> AbsorbedKeys:
        """Absorb keys, beside those that ``before`` has.

        The bits depend on the groups and their order alone, not on how many calls absorb them.

        Args:
            key_map: ``H``.
            weight: ``w > 0``.
            groups: blocks ``(d_in, n)`` of keys; at least one.
            device: where to compute.
            before: under the same map and weight.

        Raises:
            NumericalError: see `cholesky`.
        """
        size = key_map.dimension
        if before is None:
            gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        else:
            gram = before.triangles.tril(-1)
            gram.diagonal().copy_(before.diagonal)
        for group in groups:
            for keys in placed(group, device).split(CHUNK, dim=1):
                image = key_map.image(keys.contiguous())
                gram.addmm_(image.double(), image.double().T)
        diagonal = gram.diagonal().clone()
        gram.diagonal().add_(weight)
        triangles = cholesky(gram, weight).T.contiguous()  # reads what is not above the diagonal
        triangles += gram.tril_(-1)
        return cls(key_map, weight, triangles, diagonal, image.dtype)

    def image(self, keys: Tensor) -> Tensor:
        """``L⁻¹ H keys (q, n)`` float64."""
        images = self.key_map.image(keys).double()
        return torch.linalg.solve_triangular(self.triangles.T, images, upper=False)

    def adjoint(self, images: Tensor) -> Tensor:
        """``Hᵀ L⁻ᵀ images (d_in, n)``."""
        solved = torch.linalg.solve_triangular(self.triangles, images, upper=True)
        return self.key_map.adjoint(solved.to(self.dtype))
