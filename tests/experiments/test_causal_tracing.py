"""Causal tracing, against the same thing done by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.experiments.causal_tracing import (
    TracedFact,
    fact_of,
    known_facts,
    trace,
)
from alphaedit_plugin.models.decoding import continue_greedily
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import hidden_of, hooked, with_hidden
from alphaedit_plugin.models.scoring import score
from tests.tiny import REQUESTS

FACTS = [replace(request, ground_truth=request.target_new) for request in REQUESTS]


def _probability(lm: EditableModel, fact: TracedFact, *hooks: Any) -> float:
    with torch.no_grad(), hooked(*hooks):
        logits = lm.model(torch.tensor([fact.sentence.ids])).logits[0]
    start = len(fact.sentence.ids) - len(fact.answer)
    steps = logits[start:].log_softmax(1)
    return float(sum(steps[k, token] for k, token in enumerate(fact.answer)).exp())


def test_a_known_answer_has_its_probability(gpt2: EditableModel) -> None:
    facts = [fact_of(gpt2, request) for request in FACTS]
    found = trace(gpt2, facts, samples=3)
    scored = score(gpt2, [(r.filled, r.target_new) for r in FACTS])
    expected = sum(torch.tensor(answer.log_prob).exp() for answer in scored) / len(scored)
    assert found.clean == pytest.approx(float(expected), rel=1e-4)
    assert found.facts == len(FACTS)


def test_by_hand(lm: EditableModel) -> None:
    """One fact, one draw of noise: a state restored in block 1, and the MLP of block 2."""
    fact = fact_of(lm, FACTS[0])
    found = trace(lm, [fact], samples=1, seed=7)
    assert found.window == 1
    embed, end = lm.model.get_input_embeddings(), fact.sentence.position + 1
    subject = torch.tensor(sorted(set(fact.sentence.ids[fact.first : end])))
    scale = 3 * embed(subject).std().item()
    generator = torch.Generator().manual_seed(7)
    noise = scale * torch.randn(1, end - fact.first, 32, generator=generator)

    def corrupt(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        noised = output.clone()
        noised[:, fact.first : end] += noise
        return noised

    clean: dict[int, torch.Tensor] = {}
    parts = {1: lm.block(1), 2: lm.down_proj(2)}

    def keep(number: int) -> Any:
        def hook(_: Any, args: Any, output: Any) -> None:
            clean[number] = hidden_of(output)[0, end - 1].clone()

        return lambda: parts[number].register_forward_hook(hook)

    def put(number: int) -> Any:
        def hook(_: Any, args: Any, output: Any) -> Any:
            hidden = hidden_of(output).clone()
            hidden[0, end - 1] = clean[number]
            return with_hidden(output, hidden)

        return lambda: parts[number].register_forward_hook(hook)

    noisy = lambda: embed.register_forward_hook(corrupt)  # noqa: E731
    assert found.clean == pytest.approx(_probability(lm, fact, keep(1), keep(2)), rel=1e-4)
    assert found.corrupted == pytest.approx(_probability(lm, fact, noisy), rel=1e-4)
    assert found.state[1] == pytest.approx(_probability(lm, fact, noisy, put(1)), rel=1e-4)
    assert found.mlp[2] == pytest.approx(_probability(lm, fact, noisy, put(2)), rel=1e-4)


def test_the_state_after_the_last_block_is_the_answer(gpt2: EditableModel) -> None:
    """Where the subject ends the prompt, that is all the answer is read from."""
    request = replace(FACTS[0], prompt="People know {}", subject="Norland", target_new=" is")
    fact = fact_of(gpt2, replace(request, ground_truth=" is"))
    assert len(fact.answer) == 1
    found = trace(gpt2, [fact], samples=3)
    assert found.state[-1] == pytest.approx(found.clean, rel=1e-4)
    assert found.corrupted != pytest.approx(found.clean, rel=1e-2)


def test_batches_do_not_matter(gpt2: EditableModel) -> None:
    facts = [fact_of(gpt2, request) for request in FACTS]
    together = trace(gpt2, facts, samples=3)
    apart = trace(gpt2, facts, samples=3, budget=1)
    assert together.mlp == pytest.approx(apart.mlp, rel=1e-4)
    assert together.state == pytest.approx(apart.state, rel=1e-4)


def test_only_what_the_model_knows(gpt2: EditableModel) -> None:
    prompts = [request.filled for request in REQUESTS]
    said = continue_greedily(gpt2, prompts, [2] * len(prompts))
    truths = [said[0], "Spanish tennis", None, None]
    asked = [replace(r, ground_truth=t) for r, t in zip(REQUESTS, truths, strict=True)]
    right = score(gpt2, [(prompts[0], said[0])])[0].accuracy == 1
    if right:
        assert [fact.sentence.ids for fact in known_facts(gpt2, asked, 5)] == [
            fact_of(gpt2, asked[0]).sentence.ids
        ]
    with pytest.raises(ConfigError, match="answers none of 1 facts right"):
        known_facts(gpt2, asked[1:], 5)
