"""``alphaedit export``: a patch in the forms that others read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alphaedit_plugin.cli.base import Command, working
from alphaedit_plugin.common.errors import ConfigError

FLAG = "--format"
SHORT = ("format", "out", "rank")  # of the settings under "export."


def _run(words: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.config.compose import load_config

    patch, overrides = read_words(words)
    config = load_config(overrides)
    from alphaedit_plugin.cli.export_run import run_export

    with working(config):
        run_export(patch, config, console)


def read_words(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The patch, and overrides in which every setting has its full name.

    Raises:
        ConfigError: there is not one patch, or ``--format`` is followed by nothing.
    """
    settings, left = [], list(words)
    while FLAG in left:
        place = left.index(FLAG)
        if place + 1 == len(left):
            raise ConfigError(f"{FLAG} needs one: {FLAG} peft or {FLAG} full")
        settings.append(f"format={left[place + 1]}")
        del left[place : place + 2]
    settings += [word.removeprefix("--") for word in left if "=" in word]
    paths = [word for word in left if "=" not in word]
    if len(paths) != 1:
        raise ConfigError("export takes one patch: alphaedit export PATCH model=… out=FOLDER")
    full = [f"export.{s}" if s.partition("=")[0] in SHORT else s for s in settings]
    return Path(paths[0]).expanduser(), full


COMMAND = Command(
    "export",
    "write a patch as a LoRA adapter, or as a whole edited model",
    "--format peft, the default, writes what the edits add as an adapter that peft and vLLM load "
    "beside the unedited model; rank=16 keeps only so many dimensions of each layer and says "
    "what that loses. --format full writes an edited checkpoint for from_pretrained.",
    (
        "alphaedit export edits.safetensors model=gpt2-xl out=adapter",
        "alphaedit export edits.safetensors model=pocket --format full out=edited",
    ),
    _run,
    "PATCH [--format peft|full] out=FOLDER [rank=N] [key=value …]",
)
