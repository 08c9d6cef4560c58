"""Requests that contradict each other: one question, different answers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from enum import Enum
from typing import Protocol

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import Question, Request

logger = logging.getLogger(__name__)


class OnConflict(str, Enum):
    """What happens to a request that a later one contradicts."""

    last = "last"
    refuse = "refuse"


class Asked(Protocol):
    """What is compared of a request; see `Request.questions` and `Request.answer`."""

    @property
    def questions(self) -> Collection[Question]:
        """Two requests that share one ask the same."""

    @property
    def answer(self) -> str:
        """The new answer."""


def conflicts(requests: Sequence[Asked]) -> dict[int, int]:
    """By number, each request that a later one contradicts, and the last one that asks the same."""
    last = {question: n for n, request in enumerate(requests) for question in request.questions}
    winners = [max(last[question] for question in request.questions) for request in requests]
    return {
        n: winner
        for n, winner in enumerate(winners)
        if requests[n].answer != requests[winner].answer
    }


def superseded(
    batches: Sequence[Sequence[Asked]], arriving: Sequence[Asked] = ()
) -> list[dict[int, int]]:
    """Which requests of earlier batches were contradicted since, or are now.

    Unlike in `conflicts`, a request whose answer comes back later is lost, too: in between, the
    model was edited to answer something else.

    Args:
        batches: what was edited, batch by batch.
        arriving: what is about to be edited.

    Returns:
        For each batch, the indices of the requests that are lost, each with the number of the last
        one that contradicts it: its index in ``arriving``, or negative where it is in a batch.
    """
    edited = [request for batch in batches for request in batch]
    last: dict[Question, dict[str, int]] = {}  # by question, then by answer
    for number, request in enumerate((*edited, *arriving), -len(edited)):
        for question in request.questions:
            last.setdefault(question, {})[request.answer] = number
    lost: list[dict[int, int]] = []
    numbers = iter(range(-len(edited), 0))
    for batch in batches:
        lost.append({})
        for index, request in enumerate(batch):
            number = next(numbers)
            answers = [pair for q in request.questions for pair in last[q].items()]
            winner = max((n for answer, n in answers if answer != request.answer), default=number)
            if winner > number:
                lost[-1][index] = winner
    return lost


def refuse_conflicts(requests: Sequence[Request]) -> None:
    """Refuse requests that contradict each other.

    Raises:
        RequestError: naming the first two that do.
    """
    for loser, winner in conflicts(requests).items():
        raise RequestError(
            f"{_both(requests, loser, winner)}: remove one, or set on_conflict=last to let the "
            "last one win"
        )


def contradicted(requests: Sequence[Request]) -> frozenset[int]:
    """The numbers of the requests that a later one contradicts; a warning is logged for each."""
    lost = conflicts(requests)
    for loser, winner in lost.items():
        logger.warning("%s: the last one wins", _both(requests, loser, winner))
    return frozenset(lost)


def standing(requests: Sequence[Request]) -> list[Request]:
    """The requests that are not `contradicted`."""
    lost = contradicted(requests)
    return [request for number, request in enumerate(requests) if number not in lost]


def _both(requests: Sequence[Request], loser: int, winner: int) -> str:
    return (
        f"requests {loser} and {winner} want different answers to {requests[loser].filled!r}, "
        f"{requests[loser].target_new!r} and {requests[winner].target_new!r}"
    )
