"""Where does a model keep its facts? Causal tracing (Meng et al. 2022, §2).

A fact that the model knows is spoiled by noise on the subject's embeddings. Then one thing at the
subject's last token is put back to what it was without noise, layer by layer: the hidden state
behind a block, or what the MLPs of a few blocks around it put out. Where that brings the answer
back, the fact passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.progress import progress
from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.models.activations import Part, Site, read
from alphaedit_plugin.models.batching import in_token_budget
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import (
    head_only_at,
    hidden_of,
    hooked,
    inference,
    per_token,
    with_hidden,
)
from alphaedit_plugin.models.scoring import score, tokenise_pairs
from alphaedit_plugin.models.tokens import (
    Batch,
    Sentence,
    collate,
    complete,
    locate,
)

Values = Mapping[Site, Tensor]

WINDOW = 0.2  # of all blocks, whose MLPs are restored together: 10 of GPT-2 XL's 48 in the paper


@dataclass(frozen=True)
class Fact:
    """A fact that the model knows.

    Attributes:
        sentence: the prompt and all but the last token of the answer; its position is the
            subject's last token.
        first: the subject's first token.
        answer: token ids.
    """

    sentence: Sentence
    first: int
    answer: tuple[int, ...]


@dataclass(frozen=True)
class TraceSettings:
    """How facts are traced.

    Attributes:
        samples: draws of noise per fact.
        noise: its standard deviation, in those of the subjects' embeddings.
        seed: of the draws.
        budget: padded tokens per forward pass.
    """

    samples: int = 10
    noise: float = 3.0
    seed: int = 0
    budget: int = 8192


@dataclass(frozen=True)
class Trace:
    """Mean probabilities of the right answer, over facts and draws of noise.

    Attributes:
        layers: the blocks, in order.
        clean: without noise.
        spoiled: with noise.
        state: per block, with the hidden state behind it put back.
        mlp: per block, with the MLPs of ``window`` blocks around it put back.
        window: how many those are.
        facts: over how many facts the means are.
    """

    layers: tuple[int, ...]
    clean: float
    spoiled: float
    state: tuple[float, ...]
    mlp: tuple[float, ...]
    window: int
    facts: int

    def share(self, probability: float) -> float:
        """How much of what noise took away ``probability`` brings back; 1 is everything.

        0 where noise took nothing away.
        """
        taken = self.clean - self.spoiled
        return (probability - self.spoiled) / taken if taken > 0 else 0.0


def known_facts(lm: EditableModel, requests: Sequence[Request], limit: int) -> list[Fact]:
    """The first ``limit`` facts behind ``requests`` that the model answers right.

    Raises:
        ConfigError: there is none.
    """
    asked = [r for r in requests if r.ground_truth is not None and r.subject]
    pairs = [(r.filled, r.ground_truth) for r in asked if r.ground_truth is not None]
    answers = score(lm, pairs)
    known = [r for r, answer in zip(asked, answers, strict=True) if answer.accuracy == 1]
    if not known:
        raise ConfigError(
            f"the model answers none of {len(asked)} facts right (of {len(requests)} requests, "
            "those with a ground truth): give data=… with facts that it knows"
        )
    return [fact_of(lm, request) for request in known[:limit]]


def check_fact(lm: EditableModel, request: Request) -> None:
    """Refuse a request whose fact cannot be asked or placed.

    Raises:
        RequestError: see `prompts.locate` and `scoring.score`.
    """
    if request.ground_truth is not None:
        tokenise_pairs(lm, [(request.filled, request.ground_truth)])
        fact_of(lm, request)


def fact_of(lm: EditableModel, request: Request) -> Fact:
    """The fact behind a request with a ground truth, whether the model knows it or not."""
    sentence, answer = complete(
        lm, request.prompt, request.subject, request.ground_truth or "", FactToken.subject_last
    )
    first = locate(lm.tokenizer, request.prompt, request.subject, FactToken.subject_first)
    return Fact(sentence, first.position, tuple(answer))


def trace(lm: EditableModel, facts: Sequence[Fact], settings: TraceSettings) -> Trace:
    """Trace ``facts`` through all blocks.

    The model and torch's random state are as before on return.

    Args:
        lm: the model.
        facts: see `known_facts`.
        settings: how.
    """
    window = max(1, round(WINDOW * lm.depth))
    lengths = [len(fact.sentence.ids) * settings.samples for fact in facts]
    scale = settings.noise * _spread(lm, facts)
    total = torch.zeros(2 + 2 * lm.depth, dtype=torch.float64)
    parts = (Part.BLOCK, Part.VALUE)
    sites = [Site(layer, part) for part in parts for layer in range(lm.depth)]
    bar = progress(total=len(facts) * (2 + 2 * lm.depth), desc="tracing", unit="pass", leave=False)

    def work(indices: list[int]) -> None:
        batch = [facts[i] for i in indices]
        clean = read(lm, sites, [fact.sentence for fact in batch], settings.budget)
        run = _Run.of(lm, batch, indices, settings, scale)
        done = partial(bar.update, len(batch))
        total.add_(torch.tensor(run.probabilities(clean, window, done)).double())

    with torch.no_grad(), inference(lm.model), bar:
        in_token_budget(lm, lengths, settings.budget, work)
    clean, spoiled, *restored = (total / len(facts) / settings.samples).tolist()
    return Trace(
        tuple(range(lm.depth)), clean, spoiled,
        tuple(restored[: lm.depth]), tuple(restored[lm.depth :]), window, len(facts),
    )  # fmt: skip


def _spread(lm: EditableModel, facts: Sequence[Fact]) -> float:
    """Standard deviation of the subjects' embeddings, over tokens and dimensions."""
    ids = {i for fact in facts for i in fact.sentence.ids[fact.first : fact.sentence.position + 1]}
    embed = lm.model.get_input_embeddings()
    with torch.no_grad():
        return float(embed(torch.tensor(sorted(ids), device=lm.device)).float().std())


@dataclass(frozen=True)
class _Run:
    """One batch of facts, each repeated for every draw of noise.

    ``noise (n, length, d_model)`` is zero but on subjects. The head runs at ``rows`` and
    ``columns``, where ``labels`` have to be predicted.
    """

    lm: EditableModel
    batch: Batch
    noise: Tensor
    rows: Tensor
    columns: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls,
        lm: EditableModel,
        facts: Sequence[Fact],
        numbers: Sequence[int],
        settings: TraceSettings,
        scale: float,
    ) -> _Run:
        rows = [fact for fact in facts for _ in range(settings.samples)]
        batch = collate(lm, [fact.sentence for fact in rows])
        width = lm.model.get_input_embeddings().weight.shape[1]
        noise = torch.zeros(*batch.input_ids.shape, width)
        for place, (fact, number) in enumerate(zip(facts, numbers, strict=True)):
            generator = torch.Generator().manual_seed(settings.seed + number)
            end = fact.sentence.position + 1
            drawn = torch.randn(settings.samples, end - fact.first, width, generator=generator)
            first_row = place * settings.samples
            noise[first_row : first_row + settings.samples, fact.first : end] = scale * drawn
        places = [
            (row, len(fact.sentence.ids) - len(fact.answer) + k, token)
            for row, fact in enumerate(rows)
            for k, token in enumerate(fact.answer)
        ]
        index = torch.tensor(places, device=lm.device)
        return cls(lm, batch, noise.to(lm.device), *index.T)

    def probabilities(self, clean: Values, window: int, done: Callable[[], Any]) -> list[float]:
        """Sums over rows of the answer's probability.

        Args:
            clean: what every block, and its MLP, puts out at the subject's last token.
            window: how many MLPs are put back together.
            done: called after every forward pass.

        Returns:
            Without noise, with it, per block with its hidden state put back, and per block with
            the MLPs around it put back.
        """
        blocks = range(self.lm.depth)
        around = [range(layer - window // 2, layer - window // 2 + window) for layer in blocks]
        restored: list[set[Site]] = [
            set(),
            *({Site(layer, Part.BLOCK)} for layer in blocks),
            *({Site(near, Part.VALUE) for near in nears if near in blocks} for nears in around),
        ]
        found = [self._forward({}, noisy=False)]
        done()
        for sites in restored:
            found.append(self._forward({site: clean[site] for site in sites}, noisy=True))
            done()
        return found

    def _forward(self, restored: Values, noisy: bool) -> float:
        embed, inputs = self.lm.model.get_input_embeddings(), self.batch.inputs()
        hooks = [
            partial(site.module(self.lm).register_forward_hook, partial(self._restore, values))
            for site, values in restored.items()
        ]
        if noisy:
            hooks.append(partial(embed.register_forward_hook, self._spoil))
        with hooked(*hooks), head_only_at(self.lm.model, self.rows, self.columns):
            logits = self.lm.model(**inputs, use_cache=False).logits[0].float()
        labels = self.labels.to(logits.device)
        found = logits.log_softmax(1).gather(1, labels[:, None]).squeeze(1)
        answers = torch.zeros(len(self.batch.input_ids), device=logits.device)
        return float(answers.index_add(0, self.rows.to(logits.device), found).exp().sum())

    def _spoil(self, _: Any, args: Any, embedded: Tensor) -> Tensor:
        return embedded + self.noise.to(embedded)

    def _restore(self, values: Tensor, _: Any, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        shaped = per_token(hidden, self.batch.input_ids).clone()
        everyone = torch.arange(len(shaped), device=shaped.device)
        draws = len(shaped) // values.shape[1]
        put = values.T.repeat_interleave(draws, 0).to(shaped)
        shaped[everyone, self.batch.positions.to(shaped.device)] = put
        return with_hidden(output, shaped.reshape(hidden.shape))
