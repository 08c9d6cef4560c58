"""Where does a model keep its facts? Causal tracing (Meng et al. 2022, §2).

A fact that the model knows is corrupted by noise on the subject's embeddings. Then one thing at the
subject's last token is restored to its clean value, layer by layer: the hidden state after a block,
or the outputs of the MLPs of a few blocks around it. How much of the answer's probability comes
back is the indirect effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.console import progress_bar
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.metrics.known import knows
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
from alphaedit_plugin.models.scoring import tokenise_pairs
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
class TracedFact:
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
class Trace:
    """Mean probabilities of the right answer, over facts and draws of noise.

    Attributes:
        clean: without noise.
        corrupted: with noise.
        state: per block, with the hidden state after it restored.
        mlp: per block, with the MLPs of ``window`` blocks around it restored.
        window: how many MLPs are restored together.
        facts: how many facts were traced.
    """

    clean: float
    corrupted: float
    state: tuple[float, ...]
    mlp: tuple[float, ...]
    window: int
    facts: int

    def effect(self, restored: float) -> float:
        """The indirect effect as a share of what noise took away; 0 where that is nothing."""
        taken = self.clean - self.corrupted
        return (restored - self.corrupted) / taken if taken > 0 else 0.0


def known_facts(lm: EditableModel, requests: Sequence[Request], limit: int) -> list[TracedFact]:
    """The first ``limit`` facts, of those that requests replace, that the model answers right.

    Raises:
        ConfigError: there is none.
    """
    asked = [r for r in requests if r.ground_truth is not None and r.subject]
    right = knows(lm, [(r.filled, r.ground_truth or "", ()) for r in asked])
    known = [request for request, one in zip(asked, right, strict=True) if one]
    if not known:
        raise ConfigError(
            f"the model answers none of {len(asked)} facts right (of {len(requests)} requests, "
            "those with a ground truth): give data=… with facts that it knows"
        )
    return [fact_of(lm, request) for request in known[:limit]]


def check_fact(lm: EditableModel, request: Request) -> None:
    """Refuse a request whose fact cannot be asked or located.

    Raises:
        RequestError: see `tokens.locate` and `scoring.score`.
    """
    if request.ground_truth is not None:
        tokenise_pairs(lm, [(request.filled, request.ground_truth)])
        fact_of(lm, request)


def fact_of(lm: EditableModel, request: Request) -> TracedFact:
    """The fact that a request with a ground truth replaces, whether the model knows it or not."""
    sentence, answer = complete(
        lm, request.prompt, request.subject, request.ground_truth or "", FactToken.subject_last
    )
    first = locate(lm.tokenizer, request.prompt, request.subject, FactToken.subject_first)
    return TracedFact(sentence, first.position, tuple(answer))


def trace(
    lm: EditableModel,
    facts: Sequence[TracedFact],
    *,
    samples: int = 10,
    noise: float = 3.0,
    seed: int = 0,
    budget: int = 8192,
) -> Trace:
    """Trace ``facts`` through all blocks.

    The model and torch's random state are as before on return.

    Args:
        lm: the model.
        facts: see `known_facts`.
        samples: draws of noise per fact.
        noise: its standard deviation, in those of the subjects' embeddings.
        seed: of the draws.
        budget: padded tokens per forward pass.
    """
    window = max(1, round(WINDOW * lm.depth))
    scale = noise * _spread(lm, facts)
    total = torch.zeros(2 + 2 * lm.depth, dtype=torch.float64)
    parts = (Part.BLOCK, Part.VALUE)
    sites = [Site(layer, part) for part in parts for layer in range(lm.depth)]
    shown = progress_bar("tracing", len(facts) * (2 + 2 * lm.depth), "passes")
    with torch.no_grad(), inference(lm.model), shown as bar:

        def work(indices: list[int]) -> None:
            batch = [facts[i] for i in indices]
            clean = read(lm, sites, [fact.sentence for fact in batch], budget)
            draws = [scale * _draw(lm, facts[i], samples, seed + i) for i in indices]
            rows = _NoisyBatch.of(lm, batch, draws)
            done = partial(bar.update, len(batch))
            total.add_(torch.tensor(rows.probabilities(clean, window, done)).double())

        in_token_budget(lm, [len(fact.sentence.ids) * samples for fact in facts], budget, work)
    first, corrupted, *restored = (total / len(facts) / samples).tolist()
    state, mlp = tuple(restored[: lm.depth]), tuple(restored[lm.depth :])
    return Trace(first, corrupted, state, mlp, window, len(facts))


def _spread(lm: EditableModel, facts: Sequence[TracedFact]) -> float:
    """Standard deviation of the subjects' embeddings, over tokens and dimensions."""
    ids = {i for fact in facts for i in fact.sentence.ids[fact.first : fact.sentence.position + 1]}
    embed = lm.model.get_input_embeddings()
    with torch.no_grad():
        return float(embed(torch.tensor(sorted(ids), device=lm.device)).float().std())


def _draw(lm: EditableModel, fact: TracedFact, samples: int, seed: int) -> Tensor:
    """Standard noise on the subject, ``(samples, tokens, d_model)``."""
    width = lm.model.get_input_embeddings().weight.shape[1]
    tokens = fact.sentence.position + 1 - fact.first
    return torch.randn(samples, tokens, width, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class _NoisyBatch:
    """Facts, each repeated for every draw of noise.

    ``noise (n, length, d_model)`` is zero except on subjects. The head runs at ``rows`` and
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
        facts: Sequence[TracedFact],
        draws: Sequence[Tensor],
    ) -> _NoisyBatch:
        """``draws (samples, tokens, d_model)`` are the noise on each fact's subject."""
        repeated = [fact for fact, drawn in zip(facts, draws, strict=True) for _ in drawn]
        batch = collate(lm, [fact.sentence for fact in repeated])
        samples, _, width = draws[0].shape
        noise = torch.zeros(len(facts), samples, batch.input_ids.shape[1], width)
        for row, fact, drawn in zip(noise, facts, draws, strict=True):
            row[:, fact.first : fact.sentence.position + 1] = drawn
        predicted = [
            (row, len(fact.sentence.ids) - len(fact.answer) + k, token)
            for row, fact in enumerate(repeated)
            for k, token in enumerate(fact.answer)
        ]
        index = torch.tensor(predicted, device=lm.device)
        return cls(lm, batch, noise.flatten(0, 1).to(lm.device), *index.T)

    def probabilities(self, clean: Values, window: int, done: Callable[[], Any]) -> list[float]:
        """Sums over rows of the answer's probability.

        Args:
            clean: outputs of every block, and of its MLP, at the subject's last token.
            window: how many MLPs are restored together.
            done: called after every forward pass.

        Returns:
            Clean, corrupted, per block with its hidden state restored, and per block with the MLPs
            around it restored.
        """
        blocks = range(self.lm.depth)
        around = [range(layer - window // 2, layer - window // 2 + window) for layer in blocks]
        restored: list[list[Site]] = [
            [],
            *([Site(layer, Part.BLOCK)] for layer in blocks),
            *([Site(near, Part.VALUE) for near in nears if near in blocks] for nears in around),
        ]
        sums = [self._forward({}, noisy=False)]
        done()
        for sites in restored:
            sums.append(self._forward({site: clean[site] for site in sites}, noisy=True))
            done()
        return sums

    def _forward(self, restored: Values, noisy: bool) -> float:
        hooks = [
            partial(site.module(self.lm).register_forward_hook, partial(self._restore, values))
            for site, values in restored.items()
        ]
        if noisy:
            embed = self.lm.model.get_input_embeddings()
            hooks.append(partial(embed.register_forward_hook, self._corrupt))
        with hooked(*hooks), head_only_at(self.lm.model, self.rows, self.columns):
            logits = self.lm.model(**self.batch.inputs(), use_cache=False).logits[0].float()
        labels = self.labels.to(logits.device)
        log_probs = logits.log_softmax(1).gather(1, labels[:, None]).squeeze(1)
        answers = torch.zeros(len(self.batch.input_ids), device=logits.device)
        return float(answers.index_add(0, self.rows.to(logits.device), log_probs).exp().sum())

    def _corrupt(self, _: Any, args: Any, embedded: Tensor) -> Tensor:
        return embedded + self.noise.to(embedded)

    def _restore(self, values: Tensor, _: Any, args: Any, output: Any) -> Any:
        """Put ``values (d, facts)`` at the subjects' last tokens."""
        hidden = hidden_of(output)
        shaped = per_token(hidden, self.batch.input_ids).clone()
        rows = torch.arange(len(shaped), device=shaped.device)
        draws = len(shaped) // values.shape[1]
        clean = values.T.repeat_interleave(draws, 0).to(shaped)
        shaped[rows, self.batch.positions.to(shaped.device)] = clean
        return with_hidden(output, shaped.reshape(hidden.shape))
