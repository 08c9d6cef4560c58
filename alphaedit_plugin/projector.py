"""The null-space projector ``P = I − U Uᵀ`` (AlphaEdit, Fang et al. 2025, eq. 6–8)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alphaedit_plugin.delta import Delta
from alphaedit_plugin.errors import ConfigError, ProjectorError
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.statistics import SecondMoment
from alphaedit_plugin.version import VERSION

logger = logging.getLogger(__name__)


class CutRule(str, Enum):
    """How the eigenvectors that ``U`` spans are chosen."""

    absolute = "absolute"
    energy = "energy"
    rank = "rank"


@dataclass
class Cut:
    """Where the null space begins.

    Attributes:
        rule: ``absolute``: eigenvalues below ``value`` are null (AlphaEdit: 2e-2);
            ``energy``: ``U`` holds the share ``value`` of trace ``C``;
            ``rank``: ``U`` has ``value`` columns.
        value: of the rule.
    """

    rule: CutRule = CutRule.absolute
    value: float = 2e-2

    def rank(self, eigenvalues: Tensor) -> int:
        """How many leading eigenvectors ``U`` spans.

        Args:
            eigenvalues: ``(d_in,)``, descending.

        Raises:
            ConfigError: a value outside the rule's range.
        """
        self.check()
        d_in = len(eigenvalues)
        if self.rule is CutRule.absolute:
            return int((eigenvalues >= self.value).sum())
        if self.rule is CutRule.rank:
            self._require(self.value <= d_in, f"a whole number from 0 to {d_in}")
            return int(self.value)
        energy = eigenvalues.clamp_min(0).double().cumsum(0)
        return int(torch.searchsorted(energy, self.value * energy[-1]).clamp_max(d_in - 1)) + 1

    def check(self) -> None:
        """Refuse a value that suits no model.

        Raises:
            ConfigError: a value outside the rule's range.
        """
        fine, what = {
            CutRule.absolute: (0 < self.value < math.inf, "a positive eigenvalue"),
            CutRule.energy: (0 < self.value <= 1, "a share of the energy in (0, 1]"),
            CutRule.rank: (
                self.value >= 0 and float(self.value).is_integer(),
                "a whole number from 0 to the keys' dimension",
            ),
        }[self.rule]
        self._require(fine, what)

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise ConfigError(f"projector cut {self.rule.value}={self.value}: needs {what}")


@dataclass(frozen=True)
class Projector:
    """Projects onto the null space of the keys of one layer.

    Attributes:
        basis: ``U (d_in, r)`` float32, orthonormal: the directions that old keys use.
        eigenvalues: ``(d_in,)`` of ``C``, descending, kept for diagnosis.
        cut: how ``r`` was chosen.
    """

    basis: Tensor
    eigenvalues: Tensor
    cut: Cut

    @classmethod
    def fit(cls, moment: SecondMoment, cut: Cut) -> Projector:
        """Eigendecompose ``C`` and keep the eigenvectors the cut selects.

        Raises:
            ProjectorError: ``C`` is not finite.
        """
        mean = moment.mean
        if not torch.isfinite(mean).all():
            raise ProjectorError("the second moment is not finite: recompute it")
        ascending, vectors = torch.linalg.eigh(mean.double())
        eigenvalues = ascending.flip(0)
        rank = cut.rank(eigenvalues)
        basis = vectors.flip(1)[:, :rank].float().contiguous()
        return cls(basis, eigenvalues.float(), cut)

    @property
    def d_in(self) -> int:
        """Dimension of the keys."""
        return self.basis.shape[0]

    @property
    def null_dimension(self) -> int:
        """Dimension of the null space, ``d_in − r``."""
        return self.d_in - self.basis.shape[1]

    def apply(self, columns: Tensor) -> Tensor:
        """``P columns``, ``(d_in, n)``, in the columns' own dtype."""
        basis = self.basis.to(columns)
        once = columns - basis @ (basis.T @ columns)
        # U is orthonormal to float32 rounding only; the second pass removes what that leaves.
        return once - basis @ (basis.T @ once)

    def project(self, delta: Delta) -> Delta:
        """``Δ P``: the same kind of delta, factored or dense."""
        if delta.right is None:
            return Delta(self.apply(delta.left.T).T)
        return Delta(delta.left, self.apply(delta.right))

    def leakage(self, delta: Delta) -> float:
        """``‖Δ U‖ / ‖Δ‖``: the share of a delta that old keys would see; 0 for a zero delta."""
        norm = delta.norm
        if norm == 0:
            return 0.0
        basis = self.basis.to(delta.left.device, torch.float64)
        if delta.right is None:
            seen = delta.left.double() @ basis
        else:
            seen = delta.left.double() @ (delta.right.double().T @ basis)
        return seen.norm().item() / norm

    def diagnosis(self) -> str | None:
        """What is wrong with the cut, with the numbers; ``None`` when it divides the space."""
        largest, smallest = self.eigenvalues[0].item(), self.eigenvalues[-1].item()
        spectrum = f"eigenvalues span {smallest:.2e} to {largest:.2e}"
        rule = f"{self.cut.rule.value}={self.cut.value:g}"
        if self.null_dimension < 0.01 * self.d_in:
            return (
                f"the cut {rule} leaves a null space of {self.null_dimension} of {self.d_in} "
                f"dimensions ({spectrum}): P is near 0 and edits will do nothing; "
                "try projector.cut.rule=energy projector.cut.value=0.99"
            )
        if self.basis.shape[1] < 0.001 * self.d_in:
            return (
                f"the cut {rule} protects only {self.basis.shape[1]} of {self.d_in} dimensions "
                f"({spectrum}): P is near the identity and preserves nothing; "
                "try projector.cut.rule=energy projector.cut.value=0.99"
            )
        return None


def fit_projectors(moments: dict[int, SecondMoment], cut: Cut) -> dict[int, Projector]:
    """One projector per layer; a cut that degenerates is logged with the numbers."""
    projectors = {}
    for layer, moment in moments.items():
        projectors[layer] = Projector.fit(moment, cut)
        problem = projectors[layer].diagnosis()
        if problem:
            logger.warning("layer %d: %s", layer, problem)
    return projectors


def save_projectors(view: EditableModel, projectors: dict[int, Projector], path: Path) -> None:
    """Write one file with the projectors of a model, and what they belong to."""
    tensors, layers = {}, {}
    for layer, projector in projectors.items():
        tensors[f"{layer}.basis"] = projector.basis.contiguous()
        tensors[f"{layer}.eigenvalues"] = projector.eigenvalues.contiguous()
        layers[str(layer)] = {
            "module": view.layout.down_proj.format(layer),
            "fingerprint": view.fingerprint([layer]),
            "cut": asdict(projector.cut),
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    save_file(tensors, unfinished, {"layers": json.dumps(layers), "version": VERSION})
    unfinished.replace(path)


def load_projectors(view: EditableModel, layers: Sequence[int], path: Path) -> dict[int, Projector]:
    """Read the projectors of ``layers``, after checking that they belong to this model.

    Raises:
        ProjectorError: the file is missing or damaged, lacks a layer, or was made for other
            weights; both sides are named.
    """
    try:
        with safe_open(path, framework="pt") as file:
            known = json.loads((file.metadata() or {})["layers"])
            _check_owner(view, layers, path, known)
            return {
                layer: Projector(
                    file.get_tensor(f"{layer}.basis"),
                    file.get_tensor(f"{layer}.eigenvalues"),
                    Cut(
                        CutRule(known[str(layer)]["cut"]["rule"]),
                        float(known[str(layer)]["cut"]["value"]),
                    ),
                )
                for layer in layers
            }
    except FileNotFoundError:
        raise ProjectorError(f"no projector file at {path}") from None
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise ProjectorError(f"{path} is not a projector file, or is damaged: {error}") from None


def _check_owner(
    view: EditableModel, layers: Sequence[int], path: Path, known: dict[str, dict[str, str]]
) -> None:
    missing = [layer for layer in layers if str(layer) not in known]
    if missing:
        raise ProjectorError(
            f"{path} holds layers {', '.join(sorted(known, key=int))}, not layer {missing[0]}: "
            "fit a projector for the layers you edit"
        )
    for layer in layers:
        theirs, ours = known[str(layer)], view.fingerprint([layer])
        module = view.layout.down_proj.format(layer)
        if theirs["module"] != module or theirs["fingerprint"] != ours:
            raise ProjectorError(
                f"{path} was made for {theirs['module']} with fingerprint {theirs['fingerprint']}, "
                f"but this model's {module} has {ours}: fit a projector for this model"
            )
