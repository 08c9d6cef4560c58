"""``alphaedit edit``: edit a model."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import Command, working


def _run(overrides: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.config.compose import load_config

    config = load_config(overrides)  # explains a typing error before the heavier imports
    from alphaedit_plugin.cli.edit_run import run_edit

    with working(config):
        run_edit(config, console)


COMMAND = Command(
    "edit",
    "edit a model and show what it answers before and after",
    "Edits the request given by request.prompt, request.subject and request.target_new, "
    "or, without, the requests of data=…, in batches of batch_size.",
    (
        "alphaedit edit data.limit=20",
        "alphaedit edit base=rect model=gpt2-xl null_space=true model.layers=[13,14] "
        "request.prompt='The mother tongue of {} is' "
        "request.subject='Danielle Darrieux' request.target_new=English "
        "save=edited/",
    ),
    _run,
    memory="lower batch_size or model.target.budget, or set model.dtype=bfloat16",
)
