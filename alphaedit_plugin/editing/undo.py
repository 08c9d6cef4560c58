"""Taking edits back: which ones, what goes with them, and what that means for those that stay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from alphaedit_plugin.common.errors import AlphaEditError, unknown_name
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.entry import Entry


@dataclass(frozen=True)
class Undone:
    """What was taken back.

    Attributes:
        ids: of the edits.
        entries: names of the entries of which nothing is left.
        requests: what each of them asked for.
        ended: whether the end of a run, which asks for nothing, is among what was taken back.
        later: how many edits stay that were computed with these in place.
        notes: what a user should know, one sentence each; none where the latest were taken back.
    """

    ids: tuple[str, ...]
    entries: tuple[str, ...]
    requests: tuple[Request, ...] = ()
    ended: bool = False
    later: int = 0
    notes: tuple[str, ...] = ()


def plan(journal: Sequence[Entry], what: int | str) -> Undone:
    """Decide what goes.

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
    left = [entry.without(ids) for entry in journal if entry.name not in entries]
    return [entry for entry in left if entry is not None]


def _plan_one(journal: Sequence[Entry], wanted: str) -> Undone:
    named = {entry.name: place for place, entry in enumerate(journal)}
    edits = {own: place for place, entry in enumerate(journal) for own in entry.ids}
    if wanted not in named | edits:
        empty = ": the journal is empty" if not edits else "; alphaedit verify lists the edits"
        raise AlphaEditError(unknown_name("edit", wanted, [*edits, *named]) + empty)
    place = (named | edits)[wanted]
    entry, notes = journal[place], []
    ids = {wanted} if wanted in edits and entry.separable else set(entry.ids)
    if wanted in edits and len(ids) > 1:
        notes.append(
            f"{wanted} shares its delta with the others of its batch, so all {len(ids)} edits of "
            "it are taken back"
        )
    gone = [entry.name] if ids == set(entry.ids) else []
    behind = journal[place + 1 :]
    ends = [later.name for later in behind if later.ends_run]
    if ends:
        notes.append(
            "the end of the run reworked the sum of all edits, so it is taken back too: alphaedit "
            "edit with this journal ends the run again"
        )
    mates, later = _mates(entry, ids), sum(len(entry.ids) for entry in behind)
    if mates + later:
        notes.append(_what_stays(wanted, mates, later))
    taken = [number for number, own in enumerate(entry.ids) if own in ids]
    return Undone(
        tuple(entry.ids[number] for number in taken),
        tuple(gone + ends),
        tuple(entry.requests[number] for number in taken),
        entry.ends_run or bool(ends),
        mates + later,
        tuple(notes),
    )


def _mates(entry: Entry, ids: Collection[str]) -> int:
    """How many edits of a batch stay that were computed with ``ids``, others of it, in place."""
    places = [number for number, own in enumerate(entry.ids) if own in ids]
    after = entry.ids[places[-1] + 1 :] if places and entry.method.get("one_by_one") else entry.ids
    return len([own for own in after if own not in ids])


def _what_stays(wanted: str, mates: int, later: int) -> str:
    """What taking back ``wanted`` means for other edits."""
    count = mates + later
    stay = f"{count} edits stay that were" if count > 1 else "1 edit stays that was"
    own = f", {mates} of them in the same batch" if mates else ""
    return (
        f"{stay} computed with {wanted} in place{own}: alphaedit verify says whether they still "
        "hold; edit those again that do not"
    )
