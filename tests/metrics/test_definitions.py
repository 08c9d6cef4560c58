"""Every metric against a plain computation: one prompt at a time, unpadded, in float64."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.metrics.base import pairs_of
from alphaedit_plugin.metrics.evaluation import Evaluation, evaluate
from alphaedit_plugin.metrics.generation import cosine, n_gram_entropy, tf_idf
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import CONTEXT, REQUESTS, target_ids

PROBES = {
    "locality": {
        "neighbourhood": Probe(("Boris Lund plays the", "Norland is a"), ("violin", "country")),
        "other": Probe(("The cats and the",), ("cats know",)),
    },
    "portability": {
        "hop": Probe(("People in Norland speak",), ("French, German",)),
        "far": Probe(("Ada Marsh said that", "The"), ("Today people", "cats"), ((), ("people",))),
    },
}
ASKED = [
    replace(REQUESTS[0], ground_truth="French", rephrase=("Ada Marsh speaks", "So speaks Ada")),
    replace(REQUESTS[1], ground_truth="the violin; he", **PROBES),
    replace(REQUESTS[2], rephrase=("Norland is",), accept=("Norland",)),
    replace(REQUESTS[3], ground_truth="cats"),
]
TEXTS = ["The cats and the cats know Zoë Müller.", "It", "Norland is a country. " * 40]


class Plain:
    """The definitions, with a float64 copy of the model."""

    def __init__(self, lm: EditableModel) -> None:
        self.tokenizer = lm.tokenizer
        self.model = copy.deepcopy(lm.model).double()

    def rows(self, prompt: str, answer: str) -> tuple[Tensor, list[int]]:
        """``(tokens, vocabulary)`` log-probabilities at the answer's places, and its tokens."""
        before = tokenise(self.tokenizer, prompt)
        labels = target_ids(self.tokenizer, prompt, answer)
        with torch.no_grad():
            logits = self.model(torch.tensor([before + labels])).logits[0]
        return logits[len(before) - 1 : -1].log_softmax(1), labels

    def probability(self, prompt: str, answer: str) -> float:
        rows, labels = self.rows(prompt, answer)
        logs = [row[token].item() for row, token in zip(rows, labels, strict=True)]
        return math.exp(fmean(logs))

    def tokens(self, prompt: str, answer: str) -> list[int]:
        found: list[int] = self.rows(prompt, answer)[0].argmax(1).tolist()
        return found

    def share(self, prompt: str, answer: str) -> float:
        labels = target_ids(self.tokenizer, prompt, answer)
        return fmean(a == b for a, b in zip(self.tokens(prompt, answer), labels, strict=True))


@pytest.fixture
def plain(lm: EditableModel) -> Plain:
    return Plain(lm)


@pytest.fixture
def found(lm: EditableModel) -> Evaluation:
    return evaluate(lm, ASKED, {}, texts=TEXTS)


def prompts_of(request: Request, aspect: str) -> list[tuple[str, str, str | None]]:
    """(prompt, wanted, other) of an aspect."""
    if aspect == "specificity":
        probe = request.locality.get("neighbourhood", Probe((), ()))
        pairs = zip(probe.prompts, probe.answers, strict=True)
        return [(prompt, answer, request.target_new) for prompt, answer in pairs]
    prompts = [request.filled] if aspect == "efficacy" else list(request.rephrase)
    return [(prompt, request.target_new, request.ground_truth) for prompt in prompts]


@pytest.mark.parametrize("aspect", ["efficacy", "generalisation", "specificity"])
def test_aspects(plain: Plain, found: Evaluation, aspect: str) -> None:
    successes, accuracies, magnitudes = [], [], []
    for request in ASKED:
        for prompt, wanted, other in prompts_of(request, aspect):
            right = [wanted, *(request.accept if aspect != "specificity" else ())]
            accuracies.append(float(any(plain.share(prompt, answer) == 1 for answer in right)))
            if other is None:
                successes.append(accuracies[-1])
                continue
            difference = plain.probability(prompt, wanted) - plain.probability(prompt, other)
            successes.append(float(difference > 0))
            magnitudes.append(difference)
    measure = getattr(found, aspect)
    assert measure.success == fmean(successes)
    assert measure.accuracy == fmean(accuracies)
    assert measure.magnitude == pytest.approx(fmean(magnitudes), abs=1e-5)


def test_token_accuracies(plain: Plain, found: Evaluation) -> None:
    rewrite = [plain.share(r.filled, r.target_new) for r in ASKED]
    assert found.summary["rewrite_acc"] == pytest.approx(fmean(rewrite))
    rephrase = [
        fmean(plain.share(p, r.target_new) for p in r.rephrase) for r in ASKED if r.rephrase
    ]
    assert found.summary["rephrase_acc"] == pytest.approx(fmean(rephrase))
    near = [plain.share(*pair) for pair in pairs_of(ASKED[1].locality["neighbourhood"])]
    assert found.summary["neighbourhood_acc"] == pytest.approx(fmean(near))
    assert found.readings["neighbourhood_acc"].counts == (0, 1, 0, 0)
    for name, probe in ASKED[1].portability.items():
        pairs = zip(probe.prompts, probe.answers, strict=True)
        shares = fmean(plain.share(prompt, answer) for prompt, answer in pairs)
        assert found.summary[f"portability_acc.{name}"] == pytest.approx(shares)
    assert 0 <= found.summary["portability"] <= 1


def test_locality_is_against_the_unedited_model(lm: EditableModel, plain: Plain) -> None:
    before = evaluate(lm, ASKED, {})
    assert not any(column.startswith("locality_acc") for column in before.readings)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.mul_(torch.linspace(0.8, 1.2, parameter.shape[0]).reshape(
                -1, *[1] * (parameter.dim() - 1)))  # fmt: skip
    after, edited = evaluate(lm, ASKED, {}, before=before), Plain(lm)
    for name, probe in ASKED[1].locality.items():
        shares = []
        for prompt, answer in zip(probe.prompts, probe.answers, strict=True):
            old, new = plain.tokens(prompt, answer), edited.tokens(prompt, answer)
            shares.append(fmean(a == b for a, b in zip(old, new, strict=True)))
        assert after.summary[f"locality_acc.{name}"] == pytest.approx(fmean(shares))


def test_perplexity(plain: Plain, found: Evaluation) -> None:
    losses = []
    for text in TEXTS:
        ids = tokenise(plain.tokenizer, text)
        for start in range(0, len(ids), CONTEXT):
            window = ids[start : start + CONTEXT]
            with torch.no_grad():
                rows = plain.model(torch.tensor([window])).logits[0].log_softmax(1)
            losses += [-rows[i - 1, window[i]].item() for i in range(1, len(window))]
    assert len(losses) > CONTEXT
    assert found.summary["perplexity"] == pytest.approx(math.exp(fmean(losses)), rel=1e-4)


def test_entropy_is_what_a_hand_finds() -> None:
    # "a b a b": bigrams ab, ba, ab; trigrams aba, bab.
    bigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert n_gram_entropy("a b a b") == pytest.approx((2 / 3 * bigrams + 4 / 3 * 1.0) / 2)
    assert n_gram_entropy("a a a a") == n_gram_entropy("a") == n_gram_entropy("") == 0


def test_tf_idf_is_what_a_hand_finds() -> None:
    vector = tf_idf(["The cat sat", "the dog", "a dog ran"])
    one, rare = math.log(4 / 3) + 1, math.log(4 / 2) + 1
    assert vector("The the dog? Cat! zebra") == pytest.approx(
        {"the": 2 * one, "dog": one, "cat": rare}
    )
    left, right = vector("the cat"), vector("the dog")
    expected = one * one / (math.hypot(one, rare) * math.hypot(one, one))
    assert cosine(left, right) == pytest.approx(expected)
    assert cosine(left, left) == pytest.approx(1)
    assert cosine(left, {}) == 0


def test_what_the_model_says_freely_is_measured(gpt2: EditableModel) -> None:
    told = replace(
        ASKED[0],
        generation=("Ada Marsh speaks", "The mother tongue of Ada"),
        references=("Ada Marsh speaks Spanish; Spanish people", "Norland is known"),
    )
    requests = [told, *ASKED[1:]]
    state = torch.random.get_rng_state()
    found, again = evaluate(gpt2, requests, {}), evaluate(gpt2, requests, {})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found == again  # drawn from a seed of its own
    assert found.readings["fluency"].counts == (1, 0, 0, 0)
    assert 0 < found.summary["fluency"] < 2 * math.log2(CONTEXT)
    assert 0 < found.summary["consistency"] < 1
