"""Requests that contradict each other: one question, different answers, in one call."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from enum import Enum

from alphaedit_plugin.errors import RequestError
from alphaedit_plugin.request import Request

logger = logging.getLogger(__name__)


class OnConflict(str, Enum):
    """What becomes of requests that contradict a later one."""

    last = "last"
    refuse = "refuse"


def conflicts(requests: Sequence[Request]) -> dict[int, int]:
    """Which requests a later one contradicts.

    Two requests ask one question when subject and prompt are the same text but for white space
    and Unicode's spelling of a character (one code point, or several that combine).

    Returns:
        For each request that loses, its number and that of the last one with its question.
    """
    last = {_question(request): number for number, request in enumerate(requests)}
    lost = {}
    for number, request in enumerate(requests):
        winner = last[_question(request)]
        if _plain(request.target_new) != _plain(requests[winner].target_new):
            lost[number] = winner
    return lost


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


def _question(request: Request) -> tuple[str, str]:
    return _plain(request.subject), _plain(request.prompt)


def _plain(text: str) -> str:
    """``text`` with one spelling for every character, and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())
