"""``alphaedit undo``: take edits of a journal back."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import Command, split_words, working


def _run(words: Sequence[str], console: Console) -> None:
    (path, what), overrides = split_words("undo", ("JOURNAL", "[N|EDIT]"), words)
    from alphaedit_plugin.cli.patch_run import config_for, run_undo

    wanted = int(what) if what.isdecimal() and what.isascii() else what or 1
    config = config_for(path, overrides) if overrides else None
    if config is None:
        run_undo(path, wanted, None, console)
        return
    with working(config):
        run_undo(path, wanted, config, console)


COMMAND = Command(
    "undo",
    "take the latest batches of a journal back, or one edit of it",
    "N batches, 1 if nothing is said, or the edit with that id (see alphaedit verify). The journal "
    "alone is enough; with model=… the edits that stay are applied to it, and save=… writes it.",
    (
        "alphaedit undo journal/",
        "alphaedit undo journal/ e0f3a9c21d4 model=gpt2-xl save=edited/",
    ),
    _run,
    "JOURNAL [N|EDIT] [key=value …]",
)
