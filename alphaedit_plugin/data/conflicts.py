"""Requests that contradict each other: one question, different answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Protocol

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import SLOT, Request, split_slot
from alphaedit_plugin.data.spelling import folded

logger = logging.getLogger(__name__)

Question = tuple[str, str, str]


class OnConflict(str, Enum):
    """What becomes of requests that contradict a later one."""

    last = "last"
    refuse = "refuse"


class Asked(Protocol):
    """What of a request says which question it answers, and how; see `Request`."""

    @property
    def prompt(self) -> str:
        """With a slot where the subject stands."""

    @property
    def subject(self) -> str:
        """What the fact is about."""

    @property
    def target_new(self) -> str:
        """The answer."""

    @property
    def relation(self) -> str | None:
        """Its name, where it is known."""


def conflicts(requests: Sequence[Asked]) -> dict[int, int]:
    """Which requests a later one contradicts.

    Which requests ask the same: see `questions`.

    Returns:
        For each request that loses, its number and that of the last one with its question.
    """
    asked = [questions(request) for request in requests]
    last = {question: number for number, every in enumerate(asked) for question in every}
    lost = {}
    for number, request in enumerate(requests):
        winner = max(last[question] for question in asked[number])
        if answer(request) != answer(requests[winner]):
            lost[number] = winner
    return lost


def superseded(
    batches: Sequence[Sequence[Asked]], arriving: Sequence[Asked] = ()
) -> list[dict[int, int]]:
    """Which requests of earlier batches were contradicted since, or are now.

    Other than within one call, a request whose answer comes back later loses, too: in between the
    model was made to answer something else.

    Args:
        batches: what was edited, batch by batch.
        arriving: what is about to be.

    Returns:
        For each batch, the places of the requests that lose, and the number of the last that
        contradicts it among ``arriving``; negative where that is in a batch.
    """
    every = [request for batch in batches for request in batch]
    asked = [(questions(r), answer(r)) for r in (*every, *arriving)]
    last: dict[Question, dict[str, int]] = {}  # by question, then by answer
    for number, (own, wanted) in enumerate(asked, -len(every)):
        for question in own:
            last.setdefault(question, {})[wanted] = number
    winners = {}
    for number, (own, wanted) in enumerate(asked[: len(every)], -len(every)):
        others = (n for q in own for given, n in last[q].items() if given != wanted)
        winner = max(others, default=number)
        if winner > number:
            winners[number] = winner
    numbers = iter(range(-len(every), 0))
    return [
        {place: winners[n] for place, n in enumerate(islice(numbers, len(batch))) if n in winners}
        for batch in batches
    ]


def replacements(
    batches: Sequence[Sequence[Request]], arriving: Sequence[Request]
) -> Iterator[tuple[Request, Request]]:
    """Every earlier request that one of ``arriving`` contradicts, and the last that does."""
    for batch, lost in zip(batches, superseded(batches, arriving), strict=True):
        for place, winner in lost.items():
            if winner >= 0:
                yield batch[place], arriving[winner]


def refuse_conflicts(requests: Sequence[Request]) -> None:
    """Refuse requests that contradict each other.

    Raises:
        RequestError: naming the first two that do.
    """
    for loser, winner in conflicts(requests).items():
        raise RequestError(
            f"{_both(requests, loser, winner)}: leave one out, or set on_conflict=last to let the "
            "last one win"
        )


def contradicted(requests: Sequence[Request]) -> frozenset[int]:
    """The numbers of the requests that lose, each of which is warned about."""
    lost = conflicts(requests)
    for loser, winner in lost.items():
        logger.warning("%s: the last one wins", _both(requests, loser, winner))
    return frozenset(lost)


def standing(requests: Sequence[Request]) -> list[Request]:
    """The requests without those that lose; see `contradicted`."""
    lost = contradicted(requests)
    return [request for number, request in enumerate(requests) if number not in lost]


def _both(requests: Sequence[Request], loser: int, winner: int) -> str:
    return (
        f"requests {loser} and {winner} want different answers to {requests[loser].filled!r}, "
        f"{requests[loser].target_new!r} and {requests[winner].target_new!r}"
    )


def questions(request: Asked) -> set[Question]:
    """What a request asks, as it is compared: two that share a question ask the same.

    They do where the subject and the prompt, or the subject and the relation, are the same text,
    but for blanks and spelling (see `spelling.folded`).
    """
    subject = _plain(request.subject)
    found = {("prompt", subject, _plain(SLOT.join(split_slot(request.prompt))))}
    if request.relation is not None:
        found.add(("relation", subject, _plain(request.relation)))
    return found


def answer(request: Asked) -> str:
    """What a request wants to hear, as it is compared."""
    return _plain(request.target_new)


def _plain(text: str) -> str:
    return " ".join(folded(text).split())
