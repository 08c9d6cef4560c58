"""Target values: the hidden state that makes the model say the new answer.

ROME (Meng et al. 2022, eq. 4) and MEMIT (Meng et al. 2023, eq. 16): gradient steps on an offset
``δ`` added at the fact token. All requests of a batch are optimised together; only the `Tail` of
the forward pass runs at every step, and the language-model head only where a token is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.encoding import EncodedRequest
from alphaedit_plugin.editing.target_settings import TargetError, TargetSettings
from alphaedit_plugin.models.activations import Part, Site, read
from alphaedit_plugin.models.batching import activation_bytes, in_token_budget
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import head_only_at, inference
from alphaedit_plugin.models.prefix_cache import Tail, adding, begin, can_resume, run
from alphaedit_plugin.models.tokens import Sentence

FLOAT16_LOSS_SCALE = 2.0**10  # or gradients underflow

Row = tuple[Sentence, tuple[int, ...]]  # and the tokens that it has to predict


@dataclass(frozen=True)
class Targets:
    """Target values.

    Attributes:
        values: ``(d_model, n)`` float32, the target ``z`` of each request.
        loss: ``(n,)`` the loss at ``values``.
        probability: ``(n,)`` mean probability of the new answer at ``values``.
    """

    values: Tensor
    loss: Tensor
    probability: Tensor


# `optimise_targets`, or what gives the same.
TargetSearch = Callable[[EditableModel, Sequence[EncodedRequest], Site, TargetSettings], Targets]


@dataclass(frozen=True)
class _Problem:
    """The sentences of one micro-batch of requests, and what each has to predict.

    ``initial (n, d_model)`` is the unedited value after the bare context, ``place`` the module to
    whose output ``δ`` is added, and ``owner`` the request of each sentence. The head runs at
    ``rows`` and ``columns``: first at the ``m`` positions whose next token is scored (``token``,
    ``weight``, ``token_owner``, all ``(m,)``), then at each request's essence.
    """

    initial: Tensor
    place: nn.Module
    tail: Tail
    owner: Tensor
    rows: Tensor
    columns: Tensor
    token: Tensor
    weight: Tensor
    token_owner: Tensor

    @property
    def count(self) -> int:
        return len(self.initial)

    def select(self, requests: Tensor) -> _Problem:
        """The same for some of the requests, ``(n,)`` bool: no other is computed on."""
        sentences, tokens = requests[self.owner], requests[self.token_owner]
        request, sentence = (mask.cumsum(0) - 1 for mask in (requests, sentences))
        places = torch.cat([tokens, requests])
        return _Problem(
            self.initial[requests],
            self.place,
            self.tail.select(sentences.nonzero().flatten()),
            request[self.owner[sentences]],
            sentence[self.rows[places]],
            self.columns[places],
            self.token[tokens],
            self.weight[tokens],
            request[self.token_owner[tokens]],
        )


def optimise_targets(
    lm: EditableModel, batch: Sequence[EncodedRequest], site: Site, settings: TargetSettings
) -> Targets:
    """Find the value at ``site`` that makes the model answer each request's new target.

    Args:
        lm: the model as it is now; nothing in it is changed.
        batch: what to search for; each is optimised independently of the others, and its answer
            must come after each of its contexts, which all weigh the same.
        site: where the value lives: a block's output (MEMIT) or a down-projection's (ROME).
        settings: of the search.

    Raises:
        TargetError: a loss is not finite; it names the requests.
        OutOfMemory: see `in_token_budget`.
    """
    rows = [_rows(encoded) for encoded in batch]
    sizes = [max(len(s.ids) for s, _ in sentences) * len(sentences) for sentences in rows]
    columns: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def work(indices: list[int]) -> None:
        problem = _assemble(lm, [rows[i] for i in indices], site)
        columns.update(zip(indices, zip(*_search(lm, problem, settings), strict=True), strict=True))

    # The caller may have gradients off.
    with torch.inference_mode(False), torch.enable_grad(), inference(lm.model):
        needed = _token_bytes(lm, rows, site)
        in_token_budget(lm, sizes, settings.budget, work, needed, "target search")
    values, losses, probabilities = zip(*(columns[i] for i in range(len(batch))), strict=True)
    targets = Targets(torch.stack(values, dim=1), torch.stack(losses), torch.stack(probabilities))
    failed = (~torch.isfinite(targets.loss)).nonzero().flatten().tolist()
    if failed:
        raise _failure([batch[i].request for i in failed], targets.loss[failed[0]].item())
    return targets


def _rows(encoded: EncodedRequest) -> list[Row]:
    """What runs for a request; last the essence, which has nothing to predict."""
    return [*zip(encoded.sentences, encoded.answers, strict=True), (encoded.essence, ())]


def _token_bytes(lm: EditableModel, rows: Sequence[Sequence[Row]], site: Site) -> float:
    """Bytes per padded token, with what the backward pass needs."""
    flat = [row for sentences in rows for row in sentences]
    length = max(len(s.ids) for s, _ in flat)
    # Tokens before the fact token run once, without gradients.
    tail = max(len(s.ids) - s.position for s, _ in flat) if can_resume(lm) else length
    scored = sum(max(len(target), 1) for _, target in flat) / len(flat) / length
    blocks = activation_bytes(lm, lm.depth - site.layer, length)
    return blocks * tail / length + activation_bytes(lm, 0, logits=scored)


def _failure(failed: Sequence[Request], loss: float) -> TargetError:
    more = f" (and so have {len(failed) - 1} more)" if len(failed) > 1 else ""
    return TargetError(
        failed,
        f"the target search for {failed[0].filled!r} → {failed[0].target_new!r} has loss "
        f"{loss}{more}: lower model.target.lr, or check the model's weights and dtype",
    )


def _assemble(lm: EditableModel, requests: Sequence[Sequence[Row]], site: Site) -> _Problem:
    flat = [(i, s, target) for i, rows in enumerate(requests) for s, target in rows]
    bare = [rows[0][0] for rows in requests]
    initial = read(lm, [site], bare)[site].T.to(lm.device)  # where the loss is
    # What changes a block's output only need not run the block again.
    outside = site.part is Part.BLOCK or bool(lm.layout.adds_mlp)
    place = lm.block(site.layer) if outside else site.module(lm)
    tail = begin(lm, [sentence for _, sentence, _ in flat], site.layer + outside)
    cut = [s.position - c for (_, s, _), c in zip(flat, tail.column.tolist(), strict=True)]
    predict = [
        (
            row,
            len(s.ids) - len(target) + k - cut[row],
            token,
            1 / len(target) / (len(requests[i]) - 1),
        )
        for row, (i, s, target) in enumerate(flat)
        for k, token in enumerate(target)
    ]
    row, column, token, weight = (
        torch.tensor(list(values), device=lm.device) for values in zip(*predict, strict=True)
    )
    essence = torch.tensor(
        [row for row, (_, _, target) in enumerate(flat) if not target], device=lm.device
    )
    owner = torch.tensor([i for i, _, _ in flat], device=lm.device)
    rows, columns = torch.cat([row, essence]), torch.cat([column, tail.column[essence]])
    return _Problem(initial, place, tail, owner, rows, columns, token, weight, owner[row])


def _search(
    lm: EditableModel, problem: _Problem, settings: TargetSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam on all ``δ`` at once. A row is frozen once its loss is small.

    Frozen rows leave the computation once they are half of it.
    """
    initial = problem.initial
    radius = settings.clamp_norm_factor * initial.norm(dim=1, keepdim=True)
    delta = torch.zeros_like(initial, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.lr)
    loss, probability = torch.full((2, problem.count), torch.nan, device=initial.device)
    active = torch.ones_like(loss, dtype=torch.bool)
    running = torch.arange(problem.count, device=initial.device)  # those still in `problem`
    scale = FLOAT16_LOSS_SCALE if lm.parameter(0).dtype is torch.float16 else 1.0
    reference: Tensor | None = None
    for step in range(settings.steps):
        now, nll, reference = _loss(lm, problem, delta[running], reference, settings)
        going = active[running]
        loss[running[going]] = now.detach()[going]
        probability[running[going]] = (-nll.detach()[going]).exp()
        active = active & (loss >= settings.stop_loss) & torch.isfinite(loss)
        if step == settings.steps - 1 or not active.any():
            break
        going = active[running]
        optimiser.zero_grad()
        (scale * now[going].sum()).backward()
        delta.grad = None if delta.grad is None else delta.grad / scale
        before = delta.detach().clone()
        optimiser.step()
        with torch.no_grad():
            shrink = (radius / delta.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1)
            delta.copy_(torch.where(active[:, None], delta * shrink, before))
        if 2 * going.sum() <= len(going):
            problem, reference, running = problem.select(going), reference[going], running[going]
    return initial + delta.detach(), loss, probability


def _loss(
    lm: EditableModel,
    problem: _Problem,
    delta: Tensor,
    reference: Tensor | None,
    settings: TargetSettings,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss ``(n,)`` of each request, the part of it that is the answer's, and the reference.

    ``reference (n, vocabulary)`` is what the essence gave at ``δ = 0``, where it is ``None`` yet.
    """
    scores, essence = _forward(lm, problem, delta)
    reference = essence.detach() if reference is None else reference
    nll = delta.new_zeros(problem.count)
    nll = nll.index_add(0, problem.token_owner, -scores * problem.weight)
    divergence = functional.kl_div(reference, essence, log_target=True, reduction="none").sum(1)
    decay = delta.norm(dim=1) / problem.initial.norm(dim=1) ** 2
    total = nll + settings.kl_factor * divergence + settings.weight_decay * decay
    return total, nll, reference


def _forward(lm: EditableModel, problem: _Problem, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the target tokens ``(m,)`` and at the essence ``(n, vocabulary)``."""
    with (
        adding(problem.place, problem.tail, delta[problem.owner]),
        head_only_at(lm.model, problem.rows, problem.columns),
    ):
        logits = run(lm, problem.tail).logits[0]
    scored, essence = logits.float().split([len(problem.token), problem.count])
    token = problem.token.to(logits.device)
    return -functional.cross_entropy(scored, token, reduction="none"), essence.log_softmax(dim=1)
