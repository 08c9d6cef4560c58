"""Where the host defines a metric, too, both find the same."""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.metrics.easyedit import requested_rewrite
from alphaedit_plugin.metrics.evaluation import evaluate
from alphaedit_plugin.metrics.generation import n_gram_entropy
from alphaedit_plugin.models.editable import EditableModel
from tests.host.tiny_host import TinyHostModel, skip_without_host

skip_without_host()

# One prompt each: several are padded on the left by the host, which moves GPT-2's positions, so
# that what it finds for a shorter one depends on the longest.
PROBES = {
    "rephrase": ("It is known that Ada Marsh speaks",),
    "locality": {
        "neighbourhood": Probe(("Boris Lund plays the",), ("violin player",)),
        "other": Probe(("The cats and the",), ("cats know",)),
    },
    "portability": {"hop": Probe(("People in Norland speak",), ("French, German",))},
}


def requests_of(tiny: TinyHostModel) -> list[Request]:
    """The model's own, the first one with every kind of prompt."""
    found = [Request.parse(r["prompt"], r["subject"], r["target_new"]) for r in tiny.requests]
    return [replace(found[0], **PROBES), *found[1:]]


def hosts_metrics(
    tiny: TinyHostModel, model: Any, tok: Any, requests: list[Request]
) -> list[dict[str, Any]]:
    """What the host's ``compute_edit_quality`` finds, request by request."""
    module = importlib.import_module("easyeditor.evaluate.evaluate")
    tok.pad_token = tok.pad_token or tok.eos_token
    hparams = tiny.hparams("MEMIT")
    return [
        module.compute_edit_quality(
            model, hparams.model_name, hparams, tok, requested_rewrite(request), "cpu"
        )
        for request in requests
    ]


def nudge(model: Any) -> None:
    """Move every weight a little, as edits would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))


def test_token_accuracies(host: ModuleType, tiny: TinyHostModel) -> None:
    model, tok = tiny.load()
    lm, requests = EditableModel.wrap(model, copy.deepcopy(tok)), requests_of(tiny)
    before, hosts_before = evaluate(lm, requests, {}), hosts_metrics(tiny, model, tok, requests)
    nudge(model)
    after = evaluate(lm, requests, {}, before=before).summary
    theirs = hosts_metrics(tiny, model, tok, requests)
    for name in ("rewrite_acc", "rephrase_acc"):
        values = [np.mean(metrics[name]) for metrics in theirs if name in metrics]
        assert after[name] == pytest.approx(np.mean(values))
    hop = [np.mean(m["portability"]["hop_acc"]) for m in theirs if m["portability"]]
    assert after["portability_acc.hop"] == pytest.approx(np.mean(hop))
    for name in ("neighbourhood", "other"):
        old = hosts_before[0]["locality"][f"{name}_output"]
        new = theirs[0]["locality"][f"{name}_output"]
        kept = [np.mean(np.equal(a, b)) for a, b in zip(old, new, strict=True)]
        assert after[f"locality_acc.{name}"] == pytest.approx(np.mean(kept))


def test_n_gram_entropy(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """On words between spaces: for the rest nltk needs data that is downloaded."""
    module = importlib.import_module("easyeditor.evaluate.evaluate_utils")
    monkeypatch.setattr(module.nltk, "word_tokenize", str.split)
    for text in ("the cat saw the cat and the dog", "a b a b a b a b", "one two three four"):
        assert n_gram_entropy(text) == pytest.approx(module.n_gram_entropy([text]))
