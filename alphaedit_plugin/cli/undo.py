"""``alphaedit undo``: take edits of a journal back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alphaedit_plugin.cli.base import COMMANDS, Command, split_words
from alphaedit_plugin.common.console import printable, say
from alphaedit_plugin.common.errors import ConfigError, counted

logger = logging.getLogger(__name__)

NAMED = 5  # edits that are listed


def run_undo(words: Sequence[str], console: Console) -> None:
    """Take edits of a journal back, and say which, by what they asked for.

    Raises:
        AlphaEditError: there is no such journal, or it has no such edit.
    """
    (path, given), overrides = split_words("undo", ("JOURNAL", "[N|EDIT]"), words)
    if overrides:
        raise ConfigError(
            f"undo reads no settings: remove {overrides[0]!r} (alphaedit apply {path} save=… "
            "writes the model with the edits that stay)"
        )
    from alphaedit_plugin.editing.undo import plan
    from alphaedit_plugin.patches.journal import Journal

    journal = Journal.read(Path(path).expanduser())
    what = int(given) if given.isdecimal() and given.isascii() else given or 1
    undone = plan(journal.entries, what)
    if undone.ids or undone.entries:
        journal.take_back(undone, {})
    for note in undone.notes:
        logger.warning("%s", note)
    count, staying = len(undone.ids), sum(len(entry.ids) for entry in journal.entries)
    taken = ["the end of the run"] if undone.ended else []
    if count or not taken:
        taken.append(counted(count, "edit"))
    stay = "1 edit stays" if staying == 1 else f"{staying} edits stay"
    say(console, f"took back {' and '.join(taken)}; {stay}")
    for own, request in list(zip(undone.ids, undone.requests, strict=True))[:NAMED]:
        asked = f"{request.filled} → {request.target_new.strip()}"
        say(console, f"  {own}  {printable(asked)}")
    if count > NAMED:
        say(console, f"  … and {count - NAMED} more")


COMMANDS.register(
    "undo",
    Command(
        "take the latest batches of a journal back, or one edit of it",
        "N batches, 1 if nothing is said, or the edit with that id (see alphaedit verify). No "
        "model is needed; alphaedit apply JOURNAL save=… writes one with the edits that stay.",
        ("alphaedit undo journal/", "alphaedit undo journal/ e0f3a9c21d4"),
        run_undo,
        usage="JOURNAL [N|EDIT]",
    ),
)
