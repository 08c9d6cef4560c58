"""``alphaedit apply``: put a patch's edits into a model."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import Command, split_words, working


def _run(words: Sequence[str], console: Console) -> None:
    (path,), overrides = split_words("apply", ("PATCH",), words)
    from alphaedit_plugin.cli.patch_run import config_for, run_apply

    config = config_for(path, overrides)
    with working(config):
        run_apply(path, config, console)


COMMAND = Command(
    "apply",
    "put the edits of a patch into a fresh copy of its model",
    "The weights become those of the editing run, bit for bit in the same dtype; save=… writes "
    "the model. A patch made for another model is refused, unless force=true.",
    (
        "alphaedit apply edits.safetensors save=edited/",
        "alphaedit apply edits.safetensors model=gpt2-xl save=edited/",
    ),
    _run,
    "PATCH [key=value …]",
)
