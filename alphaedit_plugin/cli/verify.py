"""``alphaedit verify``: whether a patch still does what it promises."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import Command, split_words, working


def _run(words: Sequence[str], console: Console) -> int:
    (path,), overrides = split_words("verify", ("PATCH",), words)
    from alphaedit_plugin.cli.patch_run import config_for, run_verify

    config = config_for(path, overrides)
    with working(config):
        return 0 if run_verify(path, config, console) else 1


COMMAND = Command(
    "verify",
    "check that a patch's edits hold and what they were to preserve is preserved",
    "Applies the patch to model=… (or takes it as it is, if it holds the edits already), asks for "
    "each edit, and measures what old keys see of the deltas, with projector.path=… or the "
    "projector of model=…; of a model that holds the edits already, only with the former. The "
    "exit status is 0 if all holds, 1 if something does not.",
    (
        "alphaedit verify edits.safetensors",
        "alphaedit verify edits.safetensors model=gpt2-xl projector.path=p.safetensors",
    ),
    _run,
    "PATCH [key=value …]",
)
