"""Many edits, batch after batch: resume → edit → evaluate → end. All runs are this loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from alphaedit_plugin.common.console import progress
from alphaedit_plugin.data.conflicts import contradicted
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.encoding import EncodedRequest
from alphaedit_plugin.editing.engine import apply_batch, check_conflicts, finalize
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession

T = TypeVar("T")
ApplyBatch = Callable[[EditSession, Recipe, Sequence[EncodedRequest]], Entry]


@dataclass(frozen=True)
class Step(Generic[T]):
    """One batch of a run.

    Attributes:
        requests: what was asked.
        entry: of the journal; ``None`` where later requests contradict all of them.
        before: what ``evaluate`` gave before the batch, one per request.
        after: the same after it.
        seconds: spent editing.
    """

    requests: tuple[Request, ...]
    entry: Entry | None
    before: Sequence[T]
    after: Sequence[T]
    seconds: float


def run(
    session: EditSession,
    recipe: Recipe,
    encoded: Sequence[EncodedRequest],
    batch_size: int,
    *,
    evaluate: Callable[[Sequence[Request]], Sequence[T]] = lambda requests: (),
    before: Sequence[T] = (),
    keep: bool = True,
    end: bool = True,
    apply: ApplyBatch = apply_batch,
) -> Iterator[Step[T]]:
    """Edit requests in batches, one after another.

    An earlier run of the session goes on: its end (PRUNE's) is undone first and, where a batch
    fails, put back. A request that a later one contradicts is not edited.

    Args:
        session: of the model.
        recipe: how to edit.
        encoded: all requests, see `encode`.
        batch_size: of them at a time.
        evaluate: asked before and after each batch, about its requests.
        before: what it would have given before each, where that is known.
        keep: or else each batch is a run of its own, which is undone after its evaluation; such
            edits cannot contradict each other.
        end: finalize the run after its last batch.
        apply: edits a batch, in whatever way.

    Returns:
        An iterator that edits one batch at each step.

    Raises:
        AlphaEditError: see `Recipe.check` and `check_conflicts`; nothing was edited then. The
            iterator: see `apply_batch`.
    """
    requests = [one.request for one in encoded]
    recipe.check(session.layers)
    check_conflicts(session, recipe, requests)
    lost = contradicted(requests) if keep else frozenset()

    def steps() -> Iterator[Step[T]]:
        starts = range(0, len(encoded), batch_size)
        for start in progress(starts, "editing", "batches", hide=len(starts) <= 1):
            rows = range(start, min(start + batch_size, len(encoded)))
            asked = tuple(requests[row] for row in rows)
            old = before[start : rows.stop] or evaluate(asked)
            with _trial(session, undo=not keep):
                began = time.perf_counter()
                batch = [encoded[row] for row in rows if row not in lost]
                entry = apply(session, recipe, batch) if batch else None
                if not keep:
                    finalize(session, recipe)
                seconds = time.perf_counter() - began
                new = evaluate(asked)
            yield Step(asked, entry, old, new, seconds)

    def going_on() -> Iterator[Step[T]]:
        ended = session.ended and len(encoded) > 0
        if ended:
            session.undo()
        try:
            yield from steps()
        except BaseException:
            if ended:
                finalize(session, recipe)
            raise
        if end:
            finalize(session, recipe)

    return going_on() if keep else steps()


@contextmanager
def as_ended(session: EditSession, recipe: Recipe) -> Iterator[None]:
    """The model as it would be if the run ended here, inside; afterwards as it is now."""
    with _trial(session, undo=True):
        finalize(session, recipe)
        yield


@contextmanager
def _trial(session: EditSession, undo: bool) -> Iterator[None]:
    """Undo what is edited inside, also on an error, where ``undo``."""
    length = len(session.journal)
    try:
        yield
    finally:
        if undo:
            session.undo(len(session.journal) - length)
