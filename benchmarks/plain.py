"""ROME, MEMIT and AlphaEdit as published: what the benchmark compares with.

Written to be read beside the papers and their code, and to be as fast as that is, not slower: one
request at a time, batched over its context templates, through the whole model with all logits;
keys from full forward passes; dense ``d_in × d_in`` matrices (see `published`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphaedit_plugin.data.request import SLOT, Request
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import hidden_of, hooked, inference, with_hidden
from benchmarks.measure import Stopwatch
from benchmarks.published import alphaedit_solve, memit_solve, rome_solve
from benchmarks.workload import Task

ROWS = 128  # sentences per forward pass, as in the published code
ESSENCE = f"{SLOT} is a"

_Asked: TypeAlias = tuple[str, str, list[int]]  # template, subject, tokens after it


@dataclass(frozen=True)
class Outcome:
    """What a batch gave.

    Attributes:
        targets: ``(d_model, n)``; ``None`` where a side does not tell them.
        deltas: ``(d_out, d_in)`` per layer, summed over the batch.
    """

    targets: Tensor | None
    deltas: dict[int, Tensor]


@dataclass(frozen=True)
class _Encoded:
    inputs: dict[str, Tensor]
    positions: Tensor


class PlainEditor(ABC):
    """One published method on one model; `edit` leaves the weights edited.

    Args:
        lm: the model.
        task: the method's settings.
        watch: counts the phases.
    """

    def __init__(self, lm: EditableModel, task: Task, watch: Stopwatch) -> None:
        self.lm, self.task, self.watch = lm, task, watch
        self._bare = slice(None, None, len(task.contexts.flat))

    @abstractmethod
    def edit(self, requests: Sequence[Request]) -> Outcome:
        """Edit a batch of requests into the model."""

    def search(self, request: Request, module: nn.Module) -> Tensor:
        """The target value ``(d_model,)`` at the output of ``module``: Adam on an offset ``δ``."""
        settings = self.task.search
        target = self._target(request)
        prompts = [c.replace(SLOT, request.prompt) for c in self.task.contexts.flat]
        sentences = [(prompt, target[:-1]) for prompt in prompts] + [(ESSENCE, [])]
        batch = self._encode([(p, request.subject, after) for p, after in sentences])
        rows = torch.arange(len(sentences), device=self.lm.device)
        delta = torch.zeros(self.lm.model.config.hidden_size, device=self.lm.device)
        delta.requires_grad_(True)
        initial: list[Tensor] = []

        def add(_: Any, args: Any, output: Any) -> Any:
            hidden = hidden_of(output).clone()
            if not initial:
                initial.append(hidden[0, batch.positions[0]].detach().float())
            hidden[rows, batch.positions] += delta.to(hidden)
            return with_hidden(output, hidden)

        optimiser = torch.optim.Adam([delta], lr=settings.lr)
        reference: Tensor | None = None
        for step in range(settings.steps):
            with hooked(lambda: module.register_forward_hook(add)):
                logits = self.lm.model(**batch.inputs, use_cache=False).logits
            log_probs = logits.float().log_softmax(dim=2)
            essence = log_probs[-1, batch.positions[-1]]
            reference = essence.detach() if reference is None else reference
            divergence = functional.kl_div(reference, essence, log_target=True, reduction="sum")
            decay = delta.norm() / initial[0].norm() ** 2
            nll = self._negative_log_likelihood(log_probs[:-1], batch, target)
            loss = nll + settings.kl_factor * divergence + settings.weight_decay * decay
            if loss < settings.stop_loss or step == settings.steps - 1:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            radius = settings.clamp_norm_factor * initial[0].norm()
            if delta.norm() > radius:
                with torch.no_grad():
                    delta.mul_(radius / delta.norm())
        return initial[0] + delta.detach()

    def read(self, requests: Sequence[Request], module: nn.Module, inputs: bool) -> Tensor:
        """``(d, n · contexts)`` at each subject: what goes into ``module``, or comes out of it."""
        sentences: list[_Asked] = [
            (context.replace(SLOT, request.prompt), request.subject, [])
            for request in requests
            for context in self.task.contexts.flat
        ]
        return self._read(sentences, module, inputs)

    def read_bare(self, requests: Sequence[Request], module: nn.Module, inputs: bool) -> Tensor:
        """``(d, n)``, as `read`, behind no context."""
        sentences: list[_Asked] = [(r.prompt, r.subject, []) for r in requests]
        return self._read(sentences, module, inputs)

    def average(self, columns: Tensor) -> Tensor:
        """``(d, n)`` from ``(d, n · contexts)``: means over groups of contexts, then of those."""
        count = len(self.task.contexts.flat)
        per_request = columns.unflatten(1, (-1, count)).split(
            [len(group) for group in self.task.contexts.groups], dim=2
        )
        return torch.stack([group.mean(2) for group in per_request]).mean(0)

    def _read(self, sentences: Sequence[_Asked], module: nn.Module, inputs: bool) -> Tensor:
        found: list[Tensor] = []
        for start in range(0, len(sentences), ROWS):
            batch = self._encode(sentences[start : start + ROWS])
            rows = torch.arange(len(batch.positions), device=self.lm.device)

            def keep(
                _: Any, args: Any, output: Any, rows: Tensor = rows, batch: _Encoded = batch
            ) -> None:
                hidden = args[0] if inputs else hidden_of(output)
                found.append(hidden[rows, batch.positions].float())

            with torch.no_grad(), hooked(lambda: module.register_forward_hook(keep)):
                self.lm.model(**batch.inputs, use_cache=False)
        return torch.cat(found).T

    def _target(self, request: Request) -> list[int]:
        tokenizer = self.lm.tokenizer
        before = len(tokenizer(request.filled)["input_ids"])
        return list(tokenizer(f"{request.filled} {request.target_new}")["input_ids"][before:])

    def _encode(self, sentences: Sequence[_Asked]) -> _Encoded:
        """Tokenise, find each subject's last token, and pad on the right."""
        tokenizer = self.lm.tokenizer
        ids = [
            list(tokenizer(template.replace(SLOT, subject))["input_ids"]) + after
            for template, subject, after in sentences
        ]
        beginnings = [template.split(SLOT)[0] + subject for template, subject, _ in sentences]
        positions = [len(tokenizer(text)["input_ids"]) - 1 for text in beginnings]
        longest = max(map(len, ids))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        device = self.lm.device
        return _Encoded(
            {"input_ids": padded.to(device), "attention_mask": mask.to(device)},
            torch.tensor(positions, device=device),
        )

    def _negative_log_likelihood(
        self, log_probs: Tensor, batch: _Encoded, target: list[int]
    ) -> Tensor:
        """Mean over contexts and target tokens; ``log_probs (contexts, length, vocabulary)``."""
        ends = batch.inputs["attention_mask"][:-1].sum(1)
        rows = torch.arange(len(ends), device=ends.device)
        picked = [
            log_probs[rows, ends - len(target) + place, token] for place, token in enumerate(target)
        ]
        return -torch.stack(picked).mean()


class PlainMemit(PlainEditor):
    """MEMIT: targets one after another, then least squares layer after layer.

    Args:
        lm: the model.
        task: the method's settings.
        watch: counts the phases.
        moments: ``C`` per layer.
    """

    def __init__(
        self, lm: EditableModel, task: Task, watch: Stopwatch, moments: Mapping[int, Tensor]
    ) -> None:
        super().__init__(lm, task, watch)
        self.moments = moments

    def solve(self, layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        """The delta of ``layer``, ``(d_out, d_in)``."""
        return memit_solve(keys, residual, self.moments[layer], self.task.moment_weight)

    def edit(self, requests: Sequence[Request]) -> Outcome:
        """Edit a batch of requests into the model."""
        lm, layers = self.lm, self.task.layers
        last = lm.block(layers[-1])
        deltas = {}
        with inference(lm.model):
            with self.watch.phase("targets"):
                targets = torch.stack([self.search(r, last) for r in requests], dim=1)
            for place, layer in enumerate(layers):
                with self.watch.phase("keys"):
                    found = self.read(requests, lm.down_proj(layer), inputs=True)
                    keys = self.average(found)
                    missing = targets - self.read_bare(requests, last, inputs=False)
                with self.watch.phase("solve"):
                    deltas[layer] = self.solve(layer, keys, missing / (len(layers) - place))
                with self.watch.phase("write"):
                    lm.weight(layer).add_(deltas[layer].to(lm.weight(layer)))
            self.remember(requests)
        return Outcome(targets, deltas)

    def remember(self, requests: Sequence[Request]) -> None:
        """Keep what later batches need: nothing."""


class PlainAlphaEdit(PlainMemit):
    """AlphaEdit: MEMIT with the null-space solve and a dense ``Kp Kpᵀ`` per layer.

    Args:
        lm: the model.
        task: the method's settings.
        watch: counts the phases.
        projections: ``P (d_in, d_in)`` per layer.
    """

    def __init__(
        self, lm: EditableModel, task: Task, watch: Stopwatch, projections: Mapping[int, Tensor]
    ) -> None:
        super().__init__(lm, task, watch, {})
        self.projections = projections
        self.caches = {layer: torch.zeros_like(p) for layer, p in projections.items()}

    def solve(self, layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        """The delta of ``layer``, ``(d_out, d_in)``."""
        projection, cache = self.projections[layer], self.caches[layer]
        return alphaedit_solve(keys, residual, projection, cache, self.task.ridge)

    def remember(self, requests: Sequence[Request]) -> None:
        """Add the keys of the edited model to the cache of each layer."""
        for layer in self.task.layers:
            with self.watch.phase("keys"):
                found = self.read(requests, self.lm.down_proj(layer), inputs=True)
                keys = self.average(found)
            with self.watch.phase("solve"):
                self.caches[layer] += (keys @ keys.T).to(self.caches[layer])


class PlainRome(PlainEditor):
    """ROME: one request after another, one rank-one delta each.

    Args:
        lm: the model.
        task: the method's settings; one layer.
        watch: counts the phases.
        inverse: ``C⁻¹`` of that layer.
    """

    def __init__(self, lm: EditableModel, task: Task, watch: Stopwatch, inverse: Tensor) -> None:
        super().__init__(lm, task, watch)
        self.inverse = inverse

    def edit(self, requests: Sequence[Request]) -> Outcome:
        """Edit the requests into the model, one after another."""
        (layer,) = self.task.layers
        module, weight = self.lm.down_proj(layer), self.lm.weight(layer)
        total, targets = torch.zeros_like(weight, dtype=torch.float32), []
        with inference(self.lm.model):
            for request in requests:
                with self.watch.phase("keys"):
                    key = self.average(self.read([request], module, inputs=True))
                with self.watch.phase("targets"):
                    targets.append(self.search(request, module))
                with self.watch.phase("keys"):
                    subject_key = self.read_bare([request], module, inputs=True)
                    current = self.read_bare([request], module, inputs=False)
                with self.watch.phase("solve"):
                    residual = targets[-1][:, None] - current
                    delta = rome_solve(key, subject_key, residual, self.inverse)
                with self.watch.phase("write"):
                    weight.add_(delta.to(weight))
                total += delta
        return Outcome(torch.stack(targets, dim=1), {layer: total})
