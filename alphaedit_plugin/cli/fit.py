"""``alphaedit fit``: make a projector file."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import Command, working


def _run(overrides: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.config.compose import load_config

    config = load_config(overrides)
    from alphaedit_plugin.cli.fit_run import run_fit

    with working(config):
        run_fit(config, console)


COMMAND = Command(
    "fit",
    "make a projector file from any text",
    "Collects the second moments of all model.layers in one pass over corpus=… (a text, "
    "JSONL or NPY file, a folder; without, the model's own corpus), goes on where a killed "
    "run was, and writes fit.out. fit.converge=0.1 stops once more text changes nothing. "
    "torchrun --nproc-per-node 2 -m alphaedit_plugin fit … shares the corpus.",
    (
        "alphaedit fit fit.out=pocket.safetensors",
        "alphaedit fit model=gpt2-xl corpus=texts.jsonl projector=auto",
    ),
    _run,
    memory="set model.dtype=bfloat16, fit fewer model.layers at a time, or use a device with more "
    "memory; what was read is kept, and the same command goes on from there",
)
