"""What a down-projection has to put out so that its block puts out what is wanted.

Most blocks add the MLP's output to their own as it is, and there is nothing to do. Gemma 2 and 3,
OLMo 2, GLM-4 and others pass it through a norm first, Granite through a factor: there a residual of
the block's output, written as it is, would arrive turned and at another length.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from alphaedit_plugin.models.batching import in_token_budget
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import StopForward, hidden_of, hooked, inference
from alphaedit_plugin.models.prefix_cache import Tail, adding, begin, run
from alphaedit_plugin.models.tokens import Sentence

STEPS = 20  # of L-BFGS; each runs one block


def value_residual(
    lm: EditableModel,
    layer: int,
    sentences: Sequence[Sentence],
    wanted: Tensor,
    budget: int = 8192,
) -> Tensor:
    """The change of the down-projection's output that changes the block's as wanted.

    A norm fixes how long what the MLP adds can be; then the result comes as near as it allows.

    Args:
        lm: the model, as it is now.
        layer: whose block.
        sentences: ``n`` of them; what counts is their fact token.
        wanted: ``(d_model, n)``, the change of the block's output.
        budget: padded tokens that are solved together.

    Returns:
        ``(d_model, n)``: ``wanted`` itself where the block adds it as it is.
    """
    if lm.layout.adds_mlp:
        return wanted
    ended = [sentence.until_fact() for sentence in sentences]
    found = torch.empty_like(wanted)

    def work(indices: list[int]) -> None:
        tail = begin(lm, [ended[i] for i in indices], layer)
        found[:, indices] = _solve(lm, layer, tail, wanted[:, indices].T.contiguous()).T

    # The caller may have gradients off.
    with torch.inference_mode(False), torch.enable_grad(), inference(lm):
        in_token_budget(lm, [len(s.ids) for s in ended], budget, work)
    return found


def _solve(lm: EditableModel, layer: int, tail: Tail, wanted: Tensor) -> Tensor:
    """Least squares ``(n, d_model)``."""
    size = wanted.norm(dim=1, keepdim=True).clamp_min(1e-30)
    share = torch.zeros_like(wanted, requires_grad=True)  # of ``size``, so that requests are alike
    with torch.no_grad():
        goal = _block_output(lm, layer, tail, share) + wanted
    optimiser = torch.optim.LBFGS(
        [share], max_iter=STEPS, tolerance_change=1e-5, line_search_fn="strong_wolfe"
    )

    def miss() -> Tensor:
        optimiser.zero_grad()
        left = (_block_output(lm, layer, tail, size * share) - goal) / size
        loss = left.square().sum()
        loss.backward()
        return loss

    optimiser.step(miss)
    return size * share.detach()


def _block_output(lm: EditableModel, layer: int, tail: Tail, delta: Tensor) -> Tensor:
    """``(n, d_model)`` float32 at the fact tokens, with ``delta`` added behind the MLP."""
    found: list[Tensor] = []

    def stop(_: object, args: object, output: object) -> None:
        hidden = hidden_of(output)
        rows = torch.arange(len(delta), device=hidden.device)
        found.append(hidden[rows, tail.column.to(hidden.device)].float())
        raise StopForward

    block, place = lm.block(layer), lm.down_proj(layer)
    with (
        adding(place, tail, delta),
        hooked(lambda: block.register_forward_hook(stop)),
        suppress(StopForward),
    ):
        run(lm, tail)
    return found[0]
