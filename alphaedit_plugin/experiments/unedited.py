"""The evaluation of the unedited model: the same in every cell of a sweep, and made once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from alphaedit_plugin.common.cache import Cache
from alphaedit_plugin.common.tensor_file import read_tensors, write_tensors
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.experiments.results import converter
from alphaedit_plugin.experiments.resuming import digest_of
from alphaedit_plugin.metrics.base import METRICS
from alphaedit_plugin.metrics.evaluation import Evaluation, chosen
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import tokenizer_digest, weights_digest

OURS = __name__.partition(".")[0]


def evaluated_once(
    lm: EditableModel,
    data: EditData,
    metrics: Sequence[str] | None,
    evaluate: Callable[[], Evaluation],
) -> Evaluation:
    """What ``evaluate`` gives, or what it gave another cell with the same model and data.

    Args:
        lm: the unedited model.
        data: what is asked.
        metrics: see `chosen`. Metrics of the user's own may change, so nothing is kept then.
        evaluate: evaluates the model, without texts that it writes freely.
    """
    names = chosen(metrics)
    cache = Cache.usable()
    if cache is None or not all(METRICS.get(n).read.__module__.startswith(OURS) for n in names):
        return evaluate()
    key = {
        "model": weights_digest(lm) + tokenizer_digest(lm.tokenizer),
        "read": [lm.separator, lm.chat],
        "asked": digest_of((data.requests, data.retention, data.references, data.texts)),
        "metrics": names,
        "version": [VERSION, torch.__version__],
    }
    return cache.computed("evaluations", key, evaluate, _read, _write, logging.INFO)


def _read(path: Path) -> Evaluation:
    _, content = read_tensors(path)
    evaluation = converter().structure(content["readings"], Evaluation)
    outputs = {(prompt, answer): tuple(ids) for prompt, answer, ids in content["outputs"]}
    return Evaluation(evaluation.readings, outputs)


def _write(path: Path, evaluation: Evaluation) -> None:
    outputs = [[*pair, list(ids)] for pair, ids in evaluation.outputs.items()]
    readings = converter().unstructure(evaluation)
    write_tensors(path, {}, {"readings": readings, "outputs": outputs})
