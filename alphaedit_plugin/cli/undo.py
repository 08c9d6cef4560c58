"""``alphaedit undo``: take edits of a journal back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass
from rich.console import Console

from alphaedit_plugin.cli.base import COMMANDS, Command, split_words, working
from alphaedit_plugin.cli.patching import config_for, save_edited
from alphaedit_plugin.common.console import printable, say
from alphaedit_plugin.common.errors import counted
from alphaedit_plugin.common.files import empty_folder
from alphaedit_plugin.common.validation import STRICT, Text
from alphaedit_plugin.config.schema import MethodSettings

if TYPE_CHECKING:
    from alphaedit_plugin.editing.undo import Undone

logger = logging.getLogger(__name__)

NAMED = 5  # edits that are listed


@dataclass(config=STRICT)
class UndoSettings(MethodSettings):
    """What ``alphaedit undo`` reads.

    Attributes:
        save: a new folder for the model with the edits that stay.
    """

    save: Text | None = None


def run_undo(words: Sequence[str], console: Console) -> None:
    """Take edits of a journal back; with a model, show and save what stays.

    Raises:
        AlphaEditError: there is no such journal, or it has no such edit; or see `EditSession`.
    """
    (path, given), overrides = split_words("undo", ("JOURNAL", "[N|EDIT]"), words)
    what = int(given) if given.isdecimal() and given.isascii() else given or 1
    if overrides:
        with_model(path, what, config_for(path, overrides, UndoSettings), console)
    else:
        in_the_journal(path, what, console)


def in_the_journal(path: str, what: int | str, console: Console) -> None:
    """Take edits back where no model holds them."""
    from alphaedit_plugin.editing.undo import plan
    from alphaedit_plugin.patches.journal import Journal

    journal = Journal.read(Path(path).expanduser())
    undone = plan(journal.entries, what)
    if undone.ids or undone.entries:
        journal.take_back(undone, {})
    for note in undone.notes:
        logger.warning("%s", note)
    _say_undone(undone, sum(len(entry.ids) for entry in journal.entries), console)


def with_model(path: str, what: int | str, config: UndoSettings, console: Console) -> None:
    """Take edits back, in the journal and in a fresh copy of its model."""
    from alphaedit_plugin.config.build import load_model
    from alphaedit_plugin.patches.journal import Journal
    from alphaedit_plugin.patches.sessions import open_session

    folder = Path(path).expanduser()
    layers = list(Journal.read(folder).header.layers)
    target = None if config.save is None else empty_folder("save", config.save)
    with working(config):
        session = open_session(load_model(config.model), layers, folder)
        _say_undone(session.undo(what), len(session.ids), console)
        save_edited(session, target, config, console)


def _say_undone(undone: Undone, staying: int, console: Console) -> None:
    """What was taken back, by what it asked for, and how much stays."""
    count = len(undone.ids)
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
        "N batches, 1 if nothing is said, or the edit with that id (see alphaedit verify). The "
        "journal alone is enough; with model=… the edits that stay are applied to it, and save=… "
        "writes it.",
        (
            "alphaedit undo journal/",
            "alphaedit undo journal/ e0f3a9c21d4 model=gpt2-xl save=edited/",
        ),
        run_undo,
        UndoSettings,
        usage="JOURNAL [N|EDIT] [key=value …]",
    ),
)
