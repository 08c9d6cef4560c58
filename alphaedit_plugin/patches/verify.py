"""Does a patch still do what it promises: do its edits answer, and do old keys not see it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from alphaedit_plugin.data.conflicts import superseded
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.metrics.easyedit import edit_quality
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.leakage import seen_on
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from alphaedit_plugin.patches.patch import Patch

# Upper bounds: of `seen_on`, which on SmolLM2 is at most .5 through its own projectors and 1.5
# through others; and of ‖ΔU‖/‖Δ‖ in float32, which is at least 0.01 through another projector.
SEEN, ROUNDING = 0.8, 1e-5


@dataclass(frozen=True)
class EditCheck:
    """Whether one edit answers.

    Attributes:
        name: the edit's id.
        request: what it asked for.
        accuracy: share of the new answer's tokens that the model gives.
    """

    name: str
    request: Request
    accuracy: float

    @property
    def holds(self) -> bool:
        """Whether the model gives the whole answer."""
        return self.accuracy == 1.0


@dataclass(frozen=True)
class LayerCheck:
    """What old keys see of one layer's deltas.

    Attributes:
        layer: its number.
        norm: ``‖Δ‖`` of all its deltas.
        promised: whether any delta was projected, so that old keys should see nothing of it.
        leakage: ``‖ΔU‖/‖Δ‖`` of the projected deltas; ``None`` without any, or unmeasured.
        seen: what text sees of the projected deltas, see `seen_on`; ``None`` as above.
    """

    layer: int
    norm: float
    promised: bool
    leakage: float | None
    seen: float | None = None

    @property
    def holds(self) -> bool:
        """Whether old keys see nothing of the projected deltas, as far as that was measured."""
        small = self.leakage is None or self.leakage <= ROUNDING
        return small and (self.seen is None or self.seen <= SEEN)


def projected(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that were edited in the null space."""
    return [entry for entry in entries if entry.method.get("null_space") is True]


def check_edits(lm: EditableModel, entries: Sequence[Entry]) -> list[EditCheck]:
    """Ask the model, as it is, for every edit that no later one contradicts.

    Raises:
        RequestError: a prompt that this model cannot be asked.
    """
    contradicted = superseded([entry.requests for entry in entries])
    edits = [
        (name, request)
        for entry, lost in zip(entries, contradicted, strict=True)
        for number, (name, request) in enumerate(zip(entry.ids, entry.requests, strict=True))
        if number not in lost
    ]
    quality = edit_quality(lm, [request for _, request in edits])
    return [
        EditCheck(name, request, sum(metrics["rewrite_acc"]) / len(metrics["rewrite_acc"]))
        for (name, request), metrics in zip(edits, quality, strict=True)
    ]


def check_layers(
    patch: Patch,
    projectors: Mapping[int, Projector],
    moments: Mapping[int, SecondMoment] = MappingProxyType({}),
) -> list[LayerCheck]:
    """Measure the invariant, layer by layer.

    Args:
        patch: whose deltas.
        projectors: those that the projected deltas were made with; empty to measure no leakage.
        moments: of text, in the unedited model; empty to measure nothing on text.
    """
    checks = []
    for layer in sorted(patch.header.layers):
        delta, safe = patch.delta(layer), patch.delta(layer, projected(patch.entries))
        promised = safe.norm > 0
        leakage = projectors[layer].leakage(safe) if promised and projectors else None
        seen = seen_on(safe, moments[layer]) if promised and layer in moments else None
        checks.append(LayerCheck(layer, delta.norm, promised, leakage, seen))
    return checks
