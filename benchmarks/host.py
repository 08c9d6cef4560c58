"""EasyEdit's own ROME, MEMIT and AlphaEdit, on the same model, contexts and second moments."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from alphaedit_plugin.data.request import Request
from alphaedit_plugin.easyedit.find_host import HostError, import_host
from alphaedit_plugin.easyedit.host import HostMethod
from alphaedit_plugin.easyedit.host_engine import host_settings
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import inference
from benchmarks.measure import Stopwatch, peak_memory
from benchmarks.plain import Outcome
from benchmarks.runs import Row, put_back
from benchmarks.workload import Task

METHODS = {
    "rome": HostMethod("ROME", "rome.rome_main", "ROMEHyperParams"),
    "memit": HostMethod("MEMIT", "memit.memit_main", "MEMITHyperParams"),
    "alphaedit": HostMethod("AlphaEdit", "alphaedit.AlphaEdit_main", "AlphaEditHyperParams"),
}
APPLY = {
    "rome": "apply_rome_to_model",
    "memit": "apply_memit_to_model",
    "alphaedit": "apply_AlphaEdit_to_model",
}
# The host's functions by the phase they belong to; what is left solves and writes.
PARTS = {
    "rome": {"compute_v": "targets", "compute_u": "keys"},
    "memit": {
        "compute_z": "targets",
        "compute_ks": "keys",
        "get_module_input_output_at_words": "keys",
    },
}
PARTS["alphaedit"] = PARTS["memit"]


def why_not() -> str | None:
    """Why the host cannot run here; ``None`` where it can."""
    try:
        import_host()
    except HostError as error:
        return str(error)
    return None


def run_host(
    lm: EditableModel, dense: dict[int, Tensor], task: Task, requests: Sequence[Request]
) -> tuple[Row, Outcome]:
    """One batch through the host; the weights are put back.

    Args:
        lm: the model.
        dense: see `runs.dense_matrices`.
        task: what to run.
        requests: the batch.

    Returns:
        Times, and the outcome; without targets for ROME, whose host function returns none.
    """
    module, watch = METHODS[task.method].load(), Stopwatch(lm.device)
    before = {layer: lm.weight(layer).float().clone() for layer in task.layers}
    rows = [
        {"prompt": r.prompt, "subject": r.subject, "target_new": r.target_new} for r in requests
    ]
    groups = [[row] for row in rows] if task.method == "rome" else [rows]
    found: list[Tensor] = []
    with (
        put_back(lm, task.layers),
        inference(lm.model),
        _prepared(lm, dense, task),
        _timed(module, task.method, watch, found),
        redirect_stdout(io.StringIO()),
        peak_memory(lm.device) as peak,
    ):
        apply = getattr(module, APPLY[task.method])
        for group in groups:
            with watch.phase("solve"):
                apply(lm.model, lm.tokenizer, group, _hparams(lm, task))
        deltas = {layer: lm.weight(layer).float() - before[layer] for layer in task.layers}
    count = len(requests)
    row = Row(task.method, "host", count, watch.seconds.over(count), peak.bytes, count)
    return row, Outcome(torch.stack(found, dim=1) if found else None, deltas)


@contextmanager
def _prepared(lm: EditableModel, dense: dict[int, Tensor], task: Task) -> Iterator[None]:
    """Fill the host's module globals with our contexts and matrices, and put them back."""
    module = METHODS[task.method].load()
    contexts: Any = [list(group) for group in task.contexts.groups]
    model = lm.model.config._name_or_path.replace("/", "_")
    known = {(model, lm.layout.down_proj.format(i)): matrix for i, matrix in dense.items()}
    values: dict[Any, dict[str, Any]] = {module: {"CONTEXT_TEMPLATES_CACHE": contexts}}
    if task.method == "rome":
        values[module]["CONTEXT_TEMPLATES_CACHE"] = list(task.contexts.flat)
        values[importlib.import_module("easyeditor.models.rome.compute_u")] = {
            "inv_mom2_cache": known
        }
    elif task.method == "memit":
        values[module]["COV_CACHE"] = known
    else:
        projections = torch.stack(list(dense.values())).cpu()
        values[module] |= {
            "P": projections,
            "P_loaded": True,
            "cache_c": torch.zeros_like(projections),
            "cache_c_new": True,
        }
    with ExitStack() as stack:
        for owner, names in values.items():
            for name, value in names.items():
                stack.enter_context(patch.object(owner, name, value, create=True))
        yield


@contextmanager
def _timed(module: Any, method: str, watch: Stopwatch, found: list[Tensor]) -> Iterator[None]:
    """Count the phases of the host's functions, and keep the target values it finds."""

    def wrap(name: str, phase: str) -> Callable[..., Any]:
        inner = getattr(module, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            with watch.phase(phase):
                result = inner(*args, **kwargs)
            if name == "compute_z":
                found.append(result.detach())
            return result

        return run

    with ExitStack() as stack:
        for name, phase in PARTS[method].items():
            stack.enter_context(patch.object(module, name, wrap(name, phase)))
        yield


def _hparams(lm: EditableModel, task: Task) -> Any:
    """The host's hparams of this task."""
    settings = host_settings(lm, METHODS[task.method].name, task.layers, task.search) | {
        "model_name": "gpt2-xl",  # the host knows a model by parts of its name
        "stats_dir": "",
        "mom2_adjustment": True,
        "mom2_dataset": "wikipedia",
        "mom2_n_samples": 1,
        "mom2_dtype": "float32",
    }
    if task.method != "rome":
        settings["mom2_update_weight"] = task.moment_weight
    if task.method == "alphaedit":
        # A file that exists: the host then takes the projection matrix it has.
        settings |= {"nullspace_threshold": 2e-2, "L2": task.ridge, "P_loc": __file__}
    return METHODS[task.method].hparams_class()(**settings)
