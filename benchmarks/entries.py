"""Seconds per edit through EasyEdit's own entries, searched by the host and by us.

The command: ``python -m benchmarks.entries [--model gpt2] [--edits 8]``, with EASYEDIT_HOME set.
Both engines get the same model, hparams, contexts and second moments, and both are followed by the
host's own evaluation, which counts.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from torch import Tensor

import alphaedit_plugin
from alphaedit_plugin.config.build import cpu_threads
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.easyedit.find_host import import_host
from alphaedit_plugin.easyedit.host import methods_of
from alphaedit_plugin.easyedit.host_engine import host_settings
from alphaedit_plugin.easyedit.hparams import Engine
from alphaedit_plugin.nullspace.easyedit_stats import HostMoments, write_host_moment
from benchmarks.models import SHAPES, build
from benchmarks.runs import apart
from benchmarks.workload import Task, Words, Workload, build_tasks, collect

SAMPLES = 100_000
ENTRIES = (("ROME", "edit"), ("MEMIT", "edit"), ("MEMIT", "batch_edit"))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.entries", description=__doc__)
    parser.add_argument("--model", choices=list(SHAPES), default="gpt2", help="shape of the model")
    parser.add_argument("--edits", type=int, default=8, help="for each entry and engine")
    parser.add_argument("--steps", type=int, help="of the target search; default: the paper's")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads at most")
    return parser.parse_args(arguments)


def workload(options: argparse.Namespace) -> Workload:
    """The model, tasks, requests and second moments."""
    shape = SHAPES[options.model]
    lm = build(shape, torch.float32, torch.device("cpu"), 0)
    lm.model.config._name_or_path = "gpt2-xl"  # the host knows a model by parts of its name
    tasks = build_tasks(lm, shape, options.steps or shape.steps, 0)
    layers = (*shape.layers, shape.rome_layer)
    moments = collect(lm, layers, 2 * lm.key_size(shape.rome_layer), 0)
    return Workload(lm, tasks, Words(lm, 0).requests(options.edits), moments, {})


def hparams(load: Workload, task: Task, name: str, folder: Path, engine: Engine) -> Any:
    """The host's hparams of a task, with the flag."""
    settings = host_settings(load.lm, name, task.layers, task.search) | {
        "model_name": (load.lm.model, load.lm.tokenizer),
        "stats_dir": str(folder),
        "mom2_adjustment": True,
        "mom2_dataset": "wikipedia",
        "mom2_n_samples": SAMPLES,
        "mom2_dtype": "float32",
        "null_space": True,
        "null_space_rule": "energy",
        "null_space_cut": 0.9,
        "null_space_engine": engine.value,
    }
    if name == "MEMIT":
        settings |= {"mom2_update_weight": task.moment_weight, "batch_size": len(load.requests)}
    return methods_of()[name].hparams_class()(**settings)


@contextmanager
def pinned(task: Task, name: str) -> Iterator[None]:
    """Give the host our context templates, which it would sample."""
    contexts = task.contexts
    given: Any = list(contexts.flat) if name == "ROME" else [list(g) for g in contexts.groups]
    with patch.object(methods_of()[name].load(), "CONTEXT_TEMPLATES_CACHE", given):
        yield


def measure(
    load: Workload, name: str, entry: str, folder: Path, engine: Engine
) -> tuple[float, dict[int, Tensor]]:
    """Seconds per edit, and the deltas of all edits, which are then undone."""
    task = load.tasks[name.lower()]
    before = {layer: load.lm.weight(layer).clone() for layer in task.layers}
    chosen = hparams(load, task, name, folder, engine)
    if entry == "edit" and name == "MEMIT":
        chosen.batch_size = 1
    asked = _asked(load.requests)
    with pinned(task, name), redirect_stdout(io.StringIO()):
        editor = import_host().BaseEditor.from_hparams(chosen)
        start = time.perf_counter()
        getattr(editor, entry)(**asked, sequential_edit=True, verbose=False)
        seconds = time.perf_counter() - start
    deltas = {layer: load.lm.weight(layer) - weight for layer, weight in before.items()}
    with torch.no_grad():
        for layer, weight in before.items():
            load.lm.weight(layer).copy_(weight)
    return seconds / len(load.requests), deltas


def _asked(requests: Sequence[Request]) -> dict[str, list[str]]:
    return {
        "prompts": [r.filled for r in requests],
        "subject": [r.subject for r in requests],
        "target_new": [r.target_new for r in requests],
        "ground_truth": [r.target_new for r in requests],
    }


def main(arguments: Sequence[str], console: Console) -> None:
    """Measure, and print a table."""
    options = parse(arguments)
    alphaedit_plugin.register()
    with cpu_threads(options.threads), tempfile.TemporaryDirectory() as name:
        folder, load = Path(name), workload(options)
        files = HostMoments(folder, load.lm.model.config._name_or_path, samples=SAMPLES)
        for layer, moment in load.moments.items():
            path = files.path(load.lm.layout.down_proj.format(layer))
            write_host_moment(moment, path, SAMPLES)
        console.print("| method | entry | host, s | native, s | faster | deltas apart |")
        console.print("| --- | --- | --: | --: | --: | --: |")
        for method, entry in ENTRIES:
            (theirs, expected), (ours, found) = (
                measure(load, method, entry, folder, engine) for engine in Engine
            )
            distance = max(apart(found[layer], expected[layer]) for layer in expected)
            console.print(
                f"| {method} | `{entry}` | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f}× | "
                f"{distance:.0e} |"
            )
    alphaedit_plugin.unregister()


if __name__ == "__main__":
    main(sys.argv[1:], Console(width=120))
