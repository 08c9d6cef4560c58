"""``alphaedit inspect``: look into a projector file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alphaedit_plugin.cli.base import ANY_LAYER, Command, split_words, working


def _run(words: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.config.compose import load_config

    (path,), overrides = split_words("inspect", ("PROJECTOR",), words)
    config = load_config([ANY_LAYER, *overrides])
    from alphaedit_plugin.cli.inspect_run import run_inspect

    with working(config):
        run_inspect(Path(path).expanduser(), config, bool(overrides), console)


COMMAND = Command(
    "inspect",
    "show a projector's spectrum, its cut, and what leaks through it",
    "Reads a projector file. With a model (model=…) it also measures leakage on held-out "
    "text: corpus=… or, for the pocket model, people it was not fitted on.",
    (
        "alphaedit inspect projector.safetensors",
        "alphaedit inspect pocket.safetensors model=pocket",
    ),
    _run,
    "PROJECTOR [key=value …]",
)
