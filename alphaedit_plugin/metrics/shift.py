"""How far edits moved the hidden states of prompts that they are not about.

AlphaEdit's figure 5 (Fang et al. 2025, §4.4) draws pre- and post-edit states in the plane with
t-SNE; here it is their first two principal components, which keep distances as far as two
dimensions can, so that a small shift looks small.
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
DIGITS = 4  # of a point's coordinates, after the point: it is for drawing

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Shift:
    """Hidden states before and after edits, in a plane.

    Attributes:
        layer: the block whose output they are.
        relative: mean over prompts of ``‖h' - h‖``, over the mean of ``‖h - h̄‖``; in all
            dimensions.
        shown: share of the variance of all states that lies in the plane.
        before: a point per prompt.
        after: the same prompts' points.
    """

    layer: int
    relative: float
    shown: float
    before: Points
    after: Points


def shift_prompts(requests: Sequence[Request], retention: Mapping[str, Probe]) -> list[str]:
    """Up to `PROMPTS` prompts that no edit is about, evenly from each group of untouched facts.

    Without any, neighbourhood prompts; without those, the edited ones.
    """
    groups = [list(probe.prompts) for probe in retention.values()]
    near = [p for r in requests if NEIGHBOURHOOD in r.locality
            for p in r.locality[NEIGHBOURHOOD].prompts]  # fmt: skip
    groups = groups or [near or [request.filled for request in requests]]
    return [prompt for group in groups for prompt in group[: PROMPTS // len(groups)]]


def representations(lm: EditableModel, prompts: Sequence[str], layer: int) -> Tensor:
    """Hidden states at each prompt's last token.

    Args:
        lm: the model as it is now.
        prompts: what to read.
        layer: the block whose output is taken.

    Returns:
        ``(d_model, n)`` float32.
    """
    rows = [tokenise(lm.tokenizer, stem(prompt)) for prompt in prompts]
    site = Site(layer, Part.BLOCK)
    return read(lm, [site], [Sentence(tuple(ids), len(ids) - 1) for ids in rows])[site]


def shift_of(before: Tensor, after: Tensor, layer: int) -> Shift:
    """Put both on the first two principal components of the two together.

    Args:
        before: ``(d_model, n)``, of the unedited model.
        after: ``(d_model, n)``, of the same prompts in the edited one.
        layer: where they are from.
    """
    count = before.shape[1]
    both = torch.cat([before, after], dim=1).double().cpu()
    both = both - both.mean(dim=1, keepdim=True)
    left, values, _ = torch.linalg.svd(both, full_matrices=False)
    axes = left[:, :2]
    largest = axes.abs().argmax(dim=0)
    axes = (
        axes * axes[largest, torch.arange(axes.shape[1])].sign()
    )  # an axis has no sign of its own
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
