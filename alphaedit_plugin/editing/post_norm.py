"""The residual of a down-projection from that of its block, where a norm stands between them.

Most blocks add the MLP's output to their own unchanged. Gemma 2 and 3, OLMo 2, GLM-4 and others
pass it through a norm first, Granite multiplies it by a factor: there the block's residual, written
at the down-projection, would arrive rotated and scaled.
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

LBFGS_STEPS = 20  # each runs one block


def value_residual(
    lm: EditableModel,
    layer: int,
    sentences: Sequence[Sentence],
    residual: Tensor,
    budget: int = 8192,
) -> Tensor:
    """The change of the down-projection's output that changes the block's output by ``residual``.

    A norm bounds what the MLP can add; the result is then the nearest that it allows.

    Args:
        lm: the model, as it is now.
        layer: whose block.
        sentences: ``n`` of them; the change is at their fact tokens.
        residual: ``(d_model, n)``, the change of the block's output.
        budget: padded tokens that are solved together.

    Returns:
        ``(d_model, n)``: ``residual`` itself where the block adds it unchanged.
    """
    if lm.layout.adds_mlp:
        return residual
    ended = [sentence.until_fact() for sentence in sentences]
    values = torch.empty_like(residual)

    def work(indices: list[int]) -> None:
        tail = begin(lm, [ended[i] for i in indices], layer)
        values[:, indices] = _solve(lm, layer, tail, residual[:, indices].T.contiguous()).T

    # The caller may have gradients off.
    with torch.inference_mode(False), torch.enable_grad(), inference(lm.model):
        in_token_budget(lm, [len(s.ids) for s in ended], budget, work)
    return values


def _solve(lm: EditableModel, layer: int, tail: Tail, residual: Tensor) -> Tensor:
    """Nonlinear least squares ``(n, d_model)``."""
    size = residual.norm(dim=1, keepdim=True).clamp_min(1e-30)
    share = torch.zeros_like(residual, requires_grad=True)  # in units of ``size``
    with torch.no_grad():
        goal = _block_output(lm, layer, tail, share) + residual
    optimiser = torch.optim.LBFGS(
        [share], max_iter=LBFGS_STEPS, tolerance_change=1e-5, line_search_fn="strong_wolfe"
    )

    def miss() -> Tensor:
        optimiser.zero_grad()
        error = (_block_output(lm, layer, tail, size * share) - goal) / size
        loss = error.square().sum()
        loss.backward()
        return loss

    optimiser.step(miss)
    return size * share.detach()


def _block_output(lm: EditableModel, layer: int, tail: Tail, delta: Tensor) -> Tensor:
    """``(n, d_model)`` float32 at the fact tokens, with ``delta`` added to the MLP's output."""
    outputs: list[Tensor] = []

    def stop(_: object, args: object, output: object) -> None:
        hidden = hidden_of(output)
        rows = torch.arange(len(delta), device=hidden.device)
        outputs.append(hidden[rows, tail.column.to(hidden.device)].float())
        raise StopForward

    block, place = lm.block(layer), lm.down_proj(layer)
    with (
        adding(place, tail, delta),
        hooked(lambda: block.register_forward_hook(stop)),
        suppress(StopForward),
    ):
        run(lm, tail)
    return outputs[0]
