"""Target values: the hidden state that makes the model say the new answer.

ROME (Meng et al. 2022, eq. 4) and MEMIT (Meng et al. 2023, eq. 16): gradient steps on an offset
``δ`` added at the fact token. All requests of a batch are optimised together; only the `Tail` of
the forward pass runs at every step, and the language-model head only where a token is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.encoding import EncodedRequest
from alphaedit_plugin.editing.target_settings import TargetError, TargetSettings
from alphaedit_plugin.models.activations import Part, Site, read
from alphaedit_plugin.models.batching import activation_bytes, alike, in_token_budget
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import head_only_at, inference, mixed_precision
from alphaedit_plugin.models.prefix_cache import Tail, adding, begin, can_resume, run
from alphaedit_plugin.models.tokens import Sentence

FLOAT16_LOSS_SCALE = 2.0**10  # or gradients underflow

ESSENCE = -1  # instead of a token, where the subject's other traits must not change


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
class _Row:
    """A sentence of request ``owner``, the tokens that it predicts, and their weight in the loss.

    The essence predicts none.
    """

    owner: int
    sentence: Sentence
    answer: tuple[int, ...] = ()
    weight: float = 0.0


@dataclass(frozen=True)
class _Part:
    """Sentences of similar length, which run together.

    ``owner`` is the request of each. The head runs at ``rows`` and ``columns``, ``(m,)``, where
    ``request`` has to predict ``token``, or is at its `ESSENCE`; ``weight`` is its share of the
    loss.
    """

    tail: Tail
    owner: Tensor
    rows: Tensor
    columns: Tensor
    request: Tensor
    token: Tensor
    weight: Tensor

    def select(self, requests: Tensor) -> _Part:
        """The same for some of the requests, ``(n,)`` bool."""
        sentences, places = requests[self.owner], requests[self.request]
        if sentences.all():
            return self
        return _Part(
            self.tail.select(sentences.nonzero().flatten()),
            self.owner[sentences],
            (sentences.cumsum(0) - 1)[self.rows[places]],
            self.columns[places],
            self.request[places],
            self.token[places],
            self.weight[places],
        )


@dataclass(frozen=True)
class _Problem:
    """What a micro-batch of ``n`` requests has to predict.

    ``initial (n, d_model)`` is the unedited value after the bare context, and ``place`` the module
    to whose output ``δ`` is added. ``reference (n, vocabulary)`` takes the log-probabilities at
    each essence while ``δ = 0``.
    """

    initial: Tensor
    place: nn.Module
    parts: tuple[_Part, ...]
    reference: Tensor

    def select(self, requests: Tensor) -> _Problem:
        """The same for some of the requests, ``(n,)`` bool: no other is computed on."""
        parts = [part.select(requests) for part in self.parts if requests[part.owner].any()]
        return replace(self, parts=tuple(parts))


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
    sizes = [sum(len(s.ids) for s in (*one.sentences, one.essence)) for one in batch]
    columns: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def work(indices: list[int]) -> None:
        problem = _assemble(lm, [batch[i] for i in indices], site)
        columns.update(zip(indices, zip(*_search(lm, problem, settings), strict=True), strict=True))

    # The caller may have gradients off.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        inference(lm.model),
        mixed_precision(lm.model, lm.device) if settings.mixed_precision else nullcontext(),
    ):
        needed = _token_bytes(lm, _rows(batch), site)
        in_token_budget(lm, sizes, settings.budget, work, needed, "target search")
    values, losses, probabilities = zip(*(columns[i] for i in range(len(batch))), strict=True)
    targets = Targets(torch.stack(values, dim=1), torch.stack(losses), torch.stack(probabilities))
    failed = (~torch.isfinite(targets.loss)).nonzero().flatten().tolist()
    if failed:
        raise _failure([batch[i].request for i in failed], targets.loss[failed[0]].item())
    return targets


def _rows(batch: Sequence[EncodedRequest]) -> list[_Row]:
    """What runs for these requests."""
    rows = []
    for number, encoded in enumerate(batch):
        share = 1 / len(encoded.sentences)
        for sentence, answer in zip(encoded.sentences, encoded.answers, strict=True):
            rows.append(_Row(number, sentence, answer, share / len(answer)))
        rows.append(_Row(number, encoded.essence))
    return rows


def _lengths(lm: EditableModel, rows: Sequence[_Row]) -> list[int]:
    """Tokens that run at every step; those before the fact token run once, without gradients."""
    resumes = can_resume(lm)
    return [len(row.sentence.ids) - row.sentence.position * resumes for row in rows]


def _token_bytes(lm: EditableModel, rows: Sequence[_Row], site: Site) -> float:
    """Bytes per token of the sentences, with what the backward pass needs."""
    lengths = [len(row.sentence.ids) for row in rows]
    blocks = activation_bytes(lm, lm.depth - site.layer, max(lengths))
    running = sum(_lengths(lm, rows)) / sum(lengths)
    scored = sum(max(len(row.answer), 1) for row in rows) / sum(lengths)
    return blocks * running + activation_bytes(lm, 0, logits=scored)


def _failure(failed: Sequence[Request], loss: float) -> TargetError:
    more = f" (and so have {len(failed) - 1} more)" if len(failed) > 1 else ""
    return TargetError(
        failed,
        f"the target search for {failed[0].filled!r} → {failed[0].target_new!r} has loss "
        f"{loss}{more}: lower model.target.lr, or check the model's weights and dtype",
    )


def _assemble(lm: EditableModel, batch: Sequence[EncodedRequest], site: Site) -> _Problem:
    bare = [encoded.sentences[0] for encoded in batch]
    initial = read(lm, [site], bare)[site].T.to(lm.device)  # where the loss is
    # What changes a block's output only need not run the block again.
    outside = site.part is Part.BLOCK or bool(lm.layout.adds_mlp)
    place = lm.block(site.layer) if outside else site.module(lm)
    rows = _rows(batch)
    groups = alike(lm, _lengths(lm, rows))
    parts = [_part(lm, [rows[i] for i in group], site.layer + outside) for group in groups]
    vocabulary = len(lm.model.get_output_embeddings().weight)
    return _Problem(initial, place, tuple(parts), initial.new_empty(len(batch), vocabulary))


def _part(lm: EditableModel, rows: Sequence[_Row], layer: int) -> _Part:
    tail = begin(lm, [row.sentence for row in rows], layer)
    places: list[tuple[int, int, int, int, float]] = []
    for number, (row, fact) in enumerate(zip(rows, tail.column.tolist(), strict=True)):
        end = len(row.sentence.ids) - row.sentence.position + fact
        asked = enumerate(row.answer, end - len(row.answer))
        for column, token in asked if row.answer else [(fact, ESSENCE)]:
            places.append((number, column, row.owner, token, row.weight))
    owner = torch.tensor([row.owner for row in rows], device=lm.device)
    columns = (torch.tensor(values, device=lm.device) for values in zip(*places, strict=True))
    return _Part(tail, owner, *columns)


def _search(
    lm: EditableModel, problem: _Problem, settings: TargetSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam on all ``δ`` at once. A request leaves the computation once its loss is small."""
    initial = problem.initial
    radius = settings.clamp_norm_factor * initial.norm(dim=1, keepdim=True)
    delta = torch.zeros_like(initial, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.lr)
    loss, probability = torch.full((2, len(initial)), torch.nan, device=initial.device)
    active = torch.ones_like(loss, dtype=torch.bool)
    scale = FLOAT16_LOSS_SCALE if lm.parameter(0).dtype is torch.float16 else 1.0
    for step in range(settings.steps):
        last = step == settings.steps - 1
        optimiser.zero_grad()
        total, nll = torch.zeros((2, len(initial)), device=initial.device)
        for term, answer in _losses(lm, problem, delta, settings, first=step == 0):
            if not last:
                # Part by part, so that one graph exists at once.
                (scale * term.sum()).backward(inputs=[delta])
            total, nll = total + term.detach(), nll + answer.detach()
        loss = torch.where(active, total, loss)
        probability = torch.where(active, (-nll).exp(), probability)
        going = active & (loss >= settings.stop_loss) & torch.isfinite(loss)
        if last or not going.any():
            break
        delta.grad = None if delta.grad is None else delta.grad / scale
        before = delta.detach().clone()
        optimiser.step()
        with torch.no_grad():
            shrink = (radius / delta.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1)
            delta.copy_(torch.where(going[:, None], delta * shrink, before))
        if not torch.equal(going, active):
            active, problem = going, problem.select(going)
    return initial + delta.detach(), loss, probability


def _losses(
    lm: EditableModel, problem: _Problem, delta: Tensor, settings: TargetSettings, first: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Terms ``(n,)`` of the loss, and what of each is the answer's negative log-likelihood."""
    none = delta.new_zeros(len(delta))
    yield settings.weight_decay * delta.norm(dim=1) / problem.initial.norm(dim=1) ** 2, none
    for part in problem.parts:
        with (
            adding(problem.place, part.tail, delta[part.owner]),
            head_only_at(lm.model, part.rows, part.columns),
        ):
            logits = run(lm, part.tail).logits[0].float().to(delta.device)
        answers, essence = part.token != ESSENCE, part.token == ESSENCE
        nll = functional.cross_entropy(logits[answers], part.token[answers], reduction="none")
        nll = none.index_add(0, part.request[answers], nll * part.weight[answers])
        now, about = logits[essence].log_softmax(dim=1), part.request[essence]
        if first:
            problem.reference[about] = now.detach()
        divergence = functional.kl_div(
            problem.reference[about], now, log_target=True, reduction="none"
        ).sum(1)
        yield nll.index_add(0, about, settings.kl_factor * divergence), nll
