"""Finding a text in another that may spell it with other Unicode characters."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

# What stands for one another in typing and in print, and is not one to Unicode (NFKD).
ALIKE = str.maketrans(
    dict.fromkeys("‘’‚‛ʼ′`´", "'") | dict.fromkeys("“”„‟″«»", '"') | dict.fromkeys("‐‑‒–—―−", "-")
)


def occurrences(text: str, within: str) -> list[tuple[int, int]]:
    """Spans of ``within`` where ``text`` stands: as it is, or else in another spelling.

    Where it stands several times, but once as a whole word, that one is meant.
    """
    return _spans(text, within) or _respelled(text, within)


def folded(text: str) -> str:
    """``text`` without what sets apart texts that look alike.

    That is: Unicode forms, kinds of blanks, quotation marks and dashes, and invisible characters.
    """
    plain = unicodedata.normalize("NFKD", text).translate(ALIKE)
    if plain.isascii():
        return plain
    return "".join(c for c in plain if unicodedata.category(c) != "Cf")


def _spans(text: str, within: str) -> list[tuple[int, int]]:
    found = [match.span() for match in re.finditer(re.escape(text), within)]
    words = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", within)]
    return words if len(words) == 1 else found


def _respelled(text: str, within: str) -> list[tuple[int, int]]:
    """As `_spans`, up to `folded`; of whole characters, marks and all."""
    starts = [i for i, c in enumerate(within) if i == 0 or not _attached(c)]
    whole, edges = "", {0: 0}  # where a character ends in `whole`, and where in `within`
    for start, end in pairwise([*starts, len(within)]):
        whole += folded(within[start:end])
        edges[len(whole)] = end
    wanted = folded(text)
    found = _spans(wanted, whole) if wanted else []
    return [(edges[a], edges[b]) for a, b in found if a in edges and b in edges]


def _attached(character: str) -> bool:
    """Whether it is a mark on, or invisible after, the character before it."""
    return unicodedata.combining(character) != 0 or unicodedata.category(character) == "Cf"
