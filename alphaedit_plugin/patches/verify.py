"""Does a patch still do what it promises? Its edits answer, and old keys see nothing of it."""

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

SEEN = 0.8  # of `seen_on`: on SmolLM2 at most .5 through its own projectors, 1.5 through strangers'
ROUNDING = 1e-5  # ‖ΔU‖/‖Δ‖ of float32 deltas; through another projector it is 0.01 and more


@dataclass(frozen=True)
class EditCheck:
    """One edit.

    Attributes:
        name: its id.
        request: what was asked.
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
    """One layer.

    Attributes:
        layer: its number.
        norm: ``‖Δ‖`` of all its deltas.
        promised: whether any of them was projected, so that old keys should see nothing of it.
        leakage: ``‖ΔU‖/‖Δ‖`` of those that were; ``None`` if none was, or it was not measured.
        seen: what text sees of those that were, see `seen_on`; ``None`` likewise.
    """

    layer: int
    norm: float
    promised: bool
    leakage: float | None
    seen: float | None = None

    @property
    def holds(self) -> bool:
        """Whether old keys see nothing of what promises that, as far as it was measured."""
        small = self.leakage is None or self.leakage <= ROUNDING
        return small and (self.seen is None or self.seen <= SEEN)


def projected(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that promise to preserve what the model knew."""
    return [entry for entry in entries if entry.method.get("null_space") is True]


def check_edits(lm: EditableModel, entries: Sequence[Entry]) -> list[EditCheck]:
    """Ask the model, as it is, for every edit that no later one contradicted.

    Raises:
        RequestError: a prompt that this model cannot be asked.
    """
    lost = superseded([entry.requests for entry in entries])
    pairs = [
        (own, request)
        for entry, places in zip(entries, lost, strict=True)
        for place, (own, request) in enumerate(zip(entry.ids, entry.requests, strict=True))
        if place not in places
    ]
    found = edit_quality(lm, [request for _, request in pairs])
    return [
        EditCheck(own, request, sum(metrics["rewrite_acc"]) / len(metrics["rewrite_acc"]))
        for (own, request), metrics in zip(pairs, found, strict=True)
    ]


def check_layers(
    patch: Patch,
    projectors: Mapping[int, Projector],
    moments: Mapping[int, SecondMoment] = MappingProxyType({}),
) -> list[LayerCheck]:
    """Measure the invariant, layer by layer.

    Args:
        patch: whose deltas.
        projectors: those that they were made with, which layers without any deltas that were
            projected need not have; empty to measure nothing.
        moments: of text, in the unedited model; empty to measure nothing on it.
    """
    checks = []
    for layer in sorted(patch.header.places):
        delta, safe = patch.delta(layer), patch.delta(layer, projected(patch.entries))
        promised = safe.norm > 0
        leakage = projectors[layer].leakage(safe) if promised and projectors else None
        seen = seen_on(safe, moments[layer]) if promised and layer in moments else None
        checks.append(LayerCheck(layer, delta.norm, promised, leakage, seen))
    return checks
