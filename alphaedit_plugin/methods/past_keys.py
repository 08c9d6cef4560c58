"""Keys of earlier batches, and the system that grows with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alphaedit_plugin.methods.absorbed import AbsorbedKeys
from alphaedit_plugin.methods.dual import DualSystem, KeyMap, LinearMap, cholesky, placed, same

PENDING = 8  # a Gram matrix is factored again once it lacks an 8th as many keys as it has rows


@dataclass
class KeySystem:
    """``M Mᵀ + w I`` of ``M = H Kp``, in the smaller of its forms, kept between batches.

    While keys are fewer than dimensions, it has an equation per key. From then on they are absorbed
    into a matrix of fixed size, a group at a time, and only the latest ones have equations.

    Attributes:
        key_map: ``H``.
        weight: ``w > 0``.
        absorbed: the leading keys, as a map; ``None`` while there are few.
        blocks: those keys, ``(d_in, n)`` each.
        dual: the system of the others.
    """

    key_map: KeyMap
    weight: float
    absorbed: AbsorbedKeys | None = None
    blocks: list[Tensor] = field(default_factory=list)
    dual: DualSystem = field(init=False)

    def __post_init__(self) -> None:
        self.dual = DualSystem(self.key_map, self.weight)

    def solve(self, past: Sequence[Tensor], keys: Tensor) -> Tensor:
        """``Hᵀ (M Mᵀ + N Nᵀ + w I)⁻¹ N (d_in, n)`` with ``N = H keys``.

        Args:
            past: blocks of ``Kp``. Leading ones that it knows cost nothing; others than those that
                were absorbed have all absorbed anew, as what is subtracted leaves its rounding.
            keys: ``K (d_in, n)``.

        Raises:
            NumericalError: see `cholesky`.
        """
        pending = self._absorb(past, keys.device)
        n, dimension = keys.shape[1], self.key_map.reduced.dimension
        if count(pending) + n <= dimension:
            self.dual.hold([*pending, keys])
            images, columns = self.dual.images, self.dual.last_columns(n)
            return self.dual.key_map.adjoint(columns.to(images))
        key_map: LinearMap = self.absorbed or self.key_map.reduced
        images = key_map.image(placed([*pending, keys], keys.device).to(keys.dtype))
        m = images.double()
        system = m @ m.T
        system.diagonal().add_(self.dual.weight)
        columns = torch.cholesky_solve(m[:, -n:], cholesky(system, self.weight))
        return key_map.adjoint(columns.to(images))

    def _absorb(self, past: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
        """Absorb all keys but the latest few; returns these.

        Which are absorbed together depends on ``past`` alone: a session that goes on from a file
        gets the bits of one that was never interrupted.
        """
        known = len(past) >= len(self.blocks) and all(map(same, self.blocks, past))
        if not known:
            self.absorbed, self.blocks = None, []
            self.dual = DualSystem(self.key_map, self.weight)
        self.blocks = list(past[: len(self.blocks)])  # equal copies are not kept beside
        dimension = self.key_map.reduced.dimension
        groups: list[list[Tensor]] = []
        pending: list[Tensor] = []
        for block in past[len(self.blocks) :]:
            pending.append(block)
            few = dimension if self.absorbed is None and not groups else dimension // PENDING
            if count(pending) >= max(few, 1):
                groups.append(pending)
                pending = []
        if groups:
            self.absorbed = AbsorbedKeys.of(
                self.key_map.reduced, self.weight, groups, device, self.absorbed
            )
            self.blocks += [block for group in groups for block in group]
            self.dual = DualSystem(self.absorbed, 1.0)
        return pending


def count(blocks: Sequence[Tensor]) -> int:
    """How many keys these blocks have."""
    return sum(block.shape[1] for block in blocks)


@dataclass
class PastKeys:
    """``Kp`` of one layer: keys of all earlier batches, taken after their write.

    Attributes:
        blocks: ``(d_in, n)`` float32 of each batch, in order, on any device.
    """

    blocks: tuple[Tensor, ...] = ()
    _system: KeySystem | None = None

    def hold(self, batches: Sequence[Tensor], lost: Sequence[Collection[int]]) -> None:
        """Hold the keys of these batches, except those that no longer count.

        Args:
            batches: ``(d_in, n)`` each.
            lost: of each batch, the indices of such keys.
        """
        pairs = zip(batches, lost, strict=True)
        kept = (without(keys, out) if out else keys for keys, out in pairs)
        self.blocks = tuple(keys for keys in kept if keys.shape[1])

    @property
    def count(self) -> int:
        """How many keys there are."""
        return count(self.blocks)

    def joined(self, like: Tensor) -> Tensor:
        """``Kp (d_in, m)``, of the dtype and on the device of ``like (d_in, n)``."""
        return torch.cat([like[:, :0], *(block.to(like) for block in self.blocks)], dim=1)

    def system(self, key_map: KeyMap, weight: float) -> KeySystem:
        """The system that has grown from these keys under this map (the same object)."""
        system = self._system
        if system is None or system.key_map is not key_map or system.weight != weight:
            system = self._system = KeySystem(key_map, weight)
        return system


def without(keys: Tensor, lost: Collection[int]) -> Tensor:
    """Keys ``(d_in, n)`` but for these columns."""
    return keys[:, [n for n in range(keys.shape[1]) if n not in lost]]
