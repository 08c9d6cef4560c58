"""The target search as ROME and MEMIT publish it, to hold ours against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.models.activations import Site
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import CONTEXTS


def fact_position(lm: EditableModel, text: str, subject: str, kind: FactToken) -> int:
    """As published: by counting the tokens of the text up to the subject."""
    ids = lm.tokenizer(text)["input_ids"]

    def count(beginning: str) -> int:
        return len(lm.tokenizer(beginning)["input_ids"])

    start = text.rindex(subject)
    first, last = count(text[:start].rstrip()), count(text[: start + len(subject)]) - 1
    while lm.tokenizer.decode(ids[first]).isspace():
        first += 1
    return {
        FactToken.subject_first: first,
        FactToken.subject_last: last,
        FactToken.subject_first_after_last: last + 1,
        FactToken.last: len(ids) - 1,
    }[kind]


def published_loop(
    lm: EditableModel,
    request: Request,
    site: Site,
    settings: TargetSettings,
    kind: FactToken = FactToken.subject_last,
) -> tuple[Tensor, float]:
    """ROME's and MEMIT's loop as published: whole forward passes, one text at a time."""
    model, tok = lm.model, lm.tokenizer
    module = site.module(lm)
    target = tok(" " + request.target_new)["input_ids"]
    texts = [c.replace("{}", request.filled) for c in CONTEXTS.flat]
    runs = []
    for text in texts:
        prompt, position = tok(text)["input_ids"], fact_position(lm, text, request.subject, kind)
        runs.append((prompt + target[:-1], position, len(prompt) - 1))
    text = request.subject + " is a"
    essence = (tok(text)["input_ids"], fact_position(lm, text, request.subject, kind))

    initial: Tensor | None = None
    delta = torch.zeros(lm.weight(0).shape[0], requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.lr)

    def run(ids: list[int], position: int) -> Tensor:
        def add(_: nn.Module, args: Any, out: Any) -> Any:
            nonlocal initial
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            one = hidden.view(len(ids), -1)[position]
            if initial is None:
                initial = one.detach().clone()
            one += delta
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        handle = module.register_forward_hook(add)
        try:
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)
        finally:
            handle.remove()

    reference: Tensor | None = None
    for step in range(settings.steps):
        losses = []
        for ids, position, start in runs:
            scores = run(ids, position)
            picked = [scores[start + k, token] for k, token in enumerate(target)]
            losses.append(-torch.stack(picked).mean())
        scores = run(*essence)[essence[1]]
        reference = scores.detach() if reference is None else reference
        divergence = functional.kl_div(reference[None], scores[None], log_target=True,
                                       reduction="batchmean")  # fmt: skip
        assert initial is not None
        decay = settings.weight_decay * delta.norm() / initial.norm() ** 2
        loss = torch.stack(losses).mean() + settings.kl_factor * divergence + decay
        if loss < settings.stop_loss or step == settings.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        limit = settings.clamp_norm_factor * initial.norm()
        if delta.norm() > limit:
            with torch.no_grad():
                delta *= limit / delta.norm()
    assert initial is not None
    return (initial + delta).detach(), loss.item()
