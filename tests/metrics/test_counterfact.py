"""The metrics against a plain computation, one prompt at a time."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.metrics.evaluation import evaluate, harmonic_mean
from alphaedit_plugin.models.editable import EditableModel


@pytest.fixture(scope="module")
def pocket() -> EditableModel:
    return load_model(load_config().model)


@pytest.fixture(scope="module")
def data() -> EditData:
    return load_data(load_config(["data.limit=12", "compare.retention=20"]))


def log_prob(lm: EditableModel, prompt: str, answer: str) -> float:
    """Log-probability per token of ``answer``, by one plain forward pass."""
    before = lm.tokenizer(prompt)["input_ids"]
    ids = lm.tokenizer(prompt + " " + answer)["input_ids"]
    with torch.no_grad():
        scores = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    places = range(len(before), len(ids))
    return fmean(scores[i - 1, ids[i]].item() for i in places)


def says(lm: EditableModel, prompt: str, answer: str) -> bool:
    before = lm.tokenizer(prompt)["input_ids"]
    ids = lm.tokenizer(prompt + " " + answer)["input_ids"]
    with torch.no_grad():
        best = lm.model(torch.tensor([ids])).logits[0].argmax(-1)
    return all(best[i - 1] == ids[i] for i in range(len(before), len(ids)))


def likelier(lm: EditableModel, prompt: str, wanted: str, other: str) -> bool:
    return log_prob(lm, prompt, wanted) > log_prob(lm, prompt, other)


def test_every_metric_is_what_it_says(pocket: EditableModel, data: EditData) -> None:
    """Half of the requests ask for what the model says already, so no share is 0 or 1."""
    requests = [
        Request(r.prompt, r.subject, r.ground_truth, r.target_new, r.rephrase, r.locality)
        if number % 2
        else r
        for number, r in enumerate(data.requests)
        if r.ground_truth
    ]
    found = evaluate(pocket, requests, data.retention)
    edited = [likelier(pocket, r.filled, r.target_new, str(r.ground_truth)) for r in requests]
    again = [
        likelier(pocket, prompt, r.target_new, str(r.ground_truth))
        for r in requests
        for prompt in r.rephrase
    ]
    near = [
        likelier(pocket, prompt, answer, r.target_new)
        for r in requests
        for prompt, answer in zip(
            r.locality[NEIGHBOURHOOD].prompts, r.locality[NEIGHBOURHOOD].answers, strict=True
        )
    ]
    assert found.generalisation is not None
    assert found.specificity is not None
    assert found.efficacy.success == fmean(edited) == 0.5
    assert found.generalisation.success == fmean(again)
    assert found.specificity.success == fmean(near)
    assert found.efficacy.accuracy == fmean(says(pocket, r.filled, r.target_new) for r in requests)
    for name, probe in data.retention.items():
        kept = [says(pocket, p, a) for p, a in zip(probe.prompts, probe.answers, strict=True)]
        assert found.retention[name] == fmean(kept)
    parts = [0.5, fmean(again), fmean(near), fmean(found.retention.values())]
    assert found.score == pytest.approx(4 / sum(1 / part for part in parts))


def test_what_the_data_lacks_is_left_out(pocket: EditableModel, data: EditData) -> None:
    known = data.requests[0]
    bare = [Request(known.prompt, known.subject, str(known.ground_truth))]
    found = evaluate(pocket, bare, {})
    assert found.generalisation is None
    assert found.specificity is None
    assert found.retained is None
    assert found.score == found.efficacy.success == found.efficacy.accuracy == 1


def test_retention_weighs_groups_not_prompts(pocket: EditableModel, data: EditData) -> None:
    right = data.retention["seen"]
    wrong = Probe(right.prompts[:2], ("zebra", "zebra"))
    found = evaluate(pocket, data.requests[:1], {"right": right, "wrong": wrong})
    assert found.retention == {"right": 1.0, "wrong": 0.0}
    assert found.retained == 0.5


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_harmonic_mean_is_bounded_by_its_parts(values: list[float]) -> None:
    mean = harmonic_mean(values)
    assert min(values) - 1e-12 <= mean <= fmean(values) + 1e-12
    assert harmonic_mean([*values, 0.0]) == 0
