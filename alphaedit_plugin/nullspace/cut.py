"""Settings of the null space: where it begins, and how it enters an edit. No torch is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pydantic import with_config

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.validation import STRICT

if TYPE_CHECKING:
    from torch import Tensor


class Mode(str, Enum):
    """How the null space enters.

    ``solve``: AlphaEdit's closed form replaces a least-squares base's own (Fang et al. 2025,
    eq. 14). ``post``: the base's delta is projected, ``Δ ← ΔP`` (the paper's "one line").
    ``auto``: ``solve`` for a least-squares base, else ``post``.
    """

    auto = "auto"
    solve = "solve"
    post = "post"


class CutRule(str, Enum):
    """How the eigenvectors that ``U`` spans are chosen."""

    absolute = "absolute"
    energy = "energy"
    rank = "rank"
    auto = "auto"


@with_config(STRICT)
@dataclass
class Cut:
    """Where the null space begins.

    Attributes:
        rule: ``absolute``: eigenvalues below ``value`` are null (AlphaEdit: 2e-2);
            ``energy``: ``U`` holds the share ``value`` of trace ``C``;
            ``rank``: ``U`` has ``value`` columns;
            ``auto``: a direction is null if keys are smaller along it than along the mean
            direction, ``√λᵢ < value · mean √λ``. For ``value`` 1 that is the knee of the
            cumulative ``√λ``, where the curve's slope is its mean slope; it follows the scale of
            the activations, and one huge eigenvalue moves it little.
        value: of the rule.
    """

    rule: CutRule = CutRule.absolute
    value: float = 2e-2

    def check(self, d_in: int | None = None) -> None:
        """Refuse what no spectrum can make sense of.

        Args:
            d_in: number of eigenvalues, where known.

        Raises:
            ConfigError: a value outside the rule's range.
        """
        if self.rule is CutRule.energy:
            self._require(0 < self.value <= 1, "a share of the energy in (0, 1]")
        elif self.rule is CutRule.rank:
            whole = math.isfinite(self.value) and self.value >= 0 and self.value % 1 == 0
            self._require(whole, "a whole number, 0 or more")
            if d_in is not None:
                self._require(self.value <= d_in, f"a whole number from 0 to {d_in}")
        else:
            what = "a positive eigenvalue" if self.rule is CutRule.absolute else "a positive factor"
            self._require(0 < self.value < math.inf, what)

    def rank(self, eigenvalues: Tensor) -> int:
        """How many leading eigenvectors ``U`` spans.

        Args:
            eigenvalues: ``(d_in,)``, all of them, descending.

        Raises:
            ConfigError: a value outside the rule's range.
        """
        d_in = len(eigenvalues)
        self.check(d_in)
        if self.rule is CutRule.absolute:
            return int((eigenvalues >= self.value).sum())
        if self.rule is CutRule.rank:
            return int(self.value)
        values = eigenvalues.clamp_min(0).double()
        if self.rule is CutRule.auto:
            return int((values.sqrt() > self.value * values.sqrt().mean()).sum())
        energy = values.cumsum(0)
        return min(int((energy < self.value * energy[-1]).sum()), d_in - 1) + 1

    def rank_from_leading(self, leading: Tensor, d_in: int, trace: float) -> int | None:
        """As `rank`, where only the largest eigenvalues are known.

        Args:
            leading: ``(m,)``, descending.
            d_in: how many there are in all.
            trace: their sum.

        Returns:
            ``None`` if these do not decide it.
        """
        self.check(d_in)
        if self.rule is CutRule.rank:
            return int(self.value) if self.value <= len(leading) else None
        if self.rule is CutRule.absolute:
            return self.rank(leading) if leading[-1] < self.value else None
        if self.rule is CutRule.energy:
            found = int((leading.double().cumsum(0) < self.value * trace).sum()) + 1
            return found if found <= len(leading) else None
        return None

    def __str__(self) -> str:
        return f"{self.rule.value}={self.value:g}"

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise ConfigError(f"projector cut {self}: needs {what}")
