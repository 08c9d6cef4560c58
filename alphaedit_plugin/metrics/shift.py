"""How far edits move the hidden states of unrelated prompts.

AlphaEdit's figure 5 (Fang et al. 2025, §4.4) draws the states before and after in the plane of
t-SNE; here it is the plane of the first two principal components, where a small shift looks small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.models.activations import Part, Site, read
from alphaedit_plugin.models.boundary import stem, tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import Sentence

PROMPTS = 200  # enough to see a cloud
DIGITS = 4  # after the decimal point, of coordinates for drawing

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Shift:
    """Hidden states before and after edits, in a plane.

    Attributes:
        layer: the block whose output they are.
        relative: mean over prompts of ``‖h' - h‖``, over the mean of ``‖h - h̄‖``; in all
            dimensions.
        shown: share of the states' variance that lies in the plane.
        before: a point per prompt.
        after: the same prompts' points.
    """

    layer: int
    relative: float
    shown: float
    before: Points
    after: Points


def shift_prompts(requests: Sequence[Request], retention: Mapping[str, Probe]) -> list[str]:
    """Up to `PROMPTS` prompts of untouched facts, evenly from each group.

    If there are none, neighbourhood prompts; if there are none either, the edited ones.
    """
    groups = [list(probe.prompts) for probe in retention.values()]
    probes = [r.locality[NEIGHBOURHOOD] for r in requests if NEIGHBOURHOOD in r.locality]
    near = [prompt for probe in probes for prompt in probe.prompts]
    groups = groups or [near or [request.filled for request in requests]]
    return [prompt for group in groups for prompt in group[: PROMPTS // len(groups)]]


def representations(lm: EditableModel, prompts: Sequence[str], layer: int) -> Tensor:
    """``(d_model, n)`` float32: the output of block ``layer`` at each prompt's last token."""
    rows = [tokenise(lm.tokenizer, stem(prompt)) for prompt in prompts]
    site = Site(layer, Part.BLOCK)
    return read(lm, [site], [Sentence(tuple(ids), len(ids) - 1) for ids in rows])[site]


def shift_of(before: Tensor, after: Tensor, layer: int) -> Shift:
    """Project both onto the first two principal components of the two together.

    Args:
        before: ``(d_model, n)``, of the unedited model.
        after: ``(d_model, n)``, of the same prompts in the edited one.
        layer: the block whose output they are.
    """
    count = before.shape[1]
    both = torch.cat([before, after], dim=1).double().cpu()
    both = both - both.mean(dim=1, keepdim=True)
    left, values, _ = torch.linalg.svd(both, full_matrices=False)
    axes = left[:, :2]
    largest = axes.abs().argmax(dim=0)  # made positive: the sign of an axis is arbitrary
    axes = axes * axes[largest, torch.arange(axes.shape[1])].sign()
    points = [(round(x, DIGITS), round(y, DIGITS)) for x, y in (axes.T @ both).T.tolist()]
    moved, start = both[:, count:] - both[:, :count], both[:, :count]
    spread = (start - start.mean(dim=1, keepdim=True)).norm(dim=0).mean()
    energy = values.square()
    return Shift(
        layer=layer,
        relative=(moved.norm(dim=0).mean() / spread).item(),
        shown=(energy[:2].sum() / energy.sum()).item(),
        before=tuple(points[:count]),
        after=tuple(points[count:]),
    )
