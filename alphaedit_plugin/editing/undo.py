"""Undoing edits: which ones, what goes with them, and what it means for those that stay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from alphaedit_plugin.common.errors import AlphaEditError, unknown_name
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.entry import Entry


@dataclass(frozen=True)
class Undone:
    """What was undone.

    Attributes:
        ids: of the edits.
        entries: names of the entries of which nothing is left.
        requests: what each of them asked for.
        ended: whether the end of a run, which asks for nothing, is among them.
        later: how many edits stay that were computed with these in place.
        notes: what a user should know, one sentence each; none where the latest were undone.
    """

    ids: tuple[str, ...]
    entries: tuple[str, ...]
    requests: tuple[Request, ...] = ()
    ended: bool = False
    later: int = 0
    notes: tuple[str, ...] = ()


def plan(journal: Sequence[Entry], what: int | str) -> Undone:
    """Choose what to undo.

    Args:
        journal: all entries that stand, in order.
        what: how many of the latest entries; or the id of an edit, or the name of an entry.

    Raises:
        AlphaEditError: the journal is shorter than that, or has no such edit.
    """
    if isinstance(what, str):
        return _plan_one(journal, what)
    if not isinstance(what, int) or not 0 <= what <= len(journal):
        raise AlphaEditError(
            f"cannot undo the latest {what} batches: the journal has {len(journal)}"
        )
    latest = journal[len(journal) - what :]
    return Undone(
        tuple(own for entry in latest for own in entry.ids),
        tuple(entry.name for entry in latest),
        tuple(request for entry in latest for request in entry.requests),
        any(entry.ends_run for entry in latest),
    )


def remaining(
    journal: Sequence[Entry], ids: Collection[str], entries: Collection[str]
) -> list[Entry]:
    """The journal without these edits and entries.

    Raises:
        ValueError: see `Entry.without`.
    """
    rest = [entry.without(ids) for entry in journal if entry.name not in entries]
    return [entry for entry in rest if entry is not None]


def _plan_one(journal: Sequence[Entry], name: str) -> Undone:
    entries = {entry.name: number for number, entry in enumerate(journal)}
    edits = {edit: number for number, entry in enumerate(journal) for edit in entry.ids}
    if name not in entries | edits:
        empty = ": the journal is empty" if not edits else "; alphaedit verify lists the edits"
        raise AlphaEditError(unknown_name("edit", name, [*edits, *entries]) + empty)
    number = (entries | edits)[name]
    entry, notes = journal[number], []
    ids = {name} if name in edits and entry.separable else set(entry.ids)
    if name in edits and len(ids) > 1:
        notes.append(
            f"{name} shares its delta with the others of its batch, so all {len(ids)} edits of "
            "it are undone"
        )
    emptied = [entry.name] if ids == set(entry.ids) else []
    after = journal[number + 1 :]
    ends = [later.name for later in after if later.ends_run]
    if ends:
        notes.append(
            "the end of the run reworked the sum of all edits, so it is undone too: alphaedit "
            "edit with this journal ends the run again"
        )
    mates, later = _mates(entry, ids), sum(len(entry.ids) for entry in after)
    if mates + later:
        notes.append(_what_stays(name, mates, later))
    taken = [column for column, edit in enumerate(entry.ids) if edit in ids]
    return Undone(
        tuple(entry.ids[number] for number in taken),
        tuple(emptied + ends),
        tuple(entry.requests[number] for number in taken),
        entry.ends_run or bool(ends),
        mates + later,
        tuple(notes),
    )


def _mates(entry: Entry, ids: Collection[str]) -> int:
    """How many edits of a batch stay that were computed with ``ids``, others of it, in place."""
    columns = [column for column, edit in enumerate(entry.ids) if edit in ids]
    alone = columns and entry.method.get("one_by_one")
    after = entry.ids[columns[-1] + 1 :] if alone else entry.ids
    return len([edit for edit in after if edit not in ids])


def _what_stays(name: str, mates: int, later: int) -> str:
    """What undoing ``name`` means for other edits."""
    count = mates + later
    stay = f"{count} edits stay that were" if count > 1 else "1 edit stays that was"
    beside = f", {mates} of them in the same batch" if mates else ""
    return (
        f"{stay} computed with {name} in place{beside}: alphaedit verify says whether they still "
        "hold; edit those again that do not"
    )
