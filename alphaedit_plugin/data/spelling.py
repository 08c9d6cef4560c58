"""Texts that look alike but differ in Unicode characters."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

# Interchangeable in typing and in print, but not to Unicode's normal forms.
ALIKE = str.maketrans(
    dict.fromkeys("‘’‚‛ʼ′`´", "'") | dict.fromkeys("“”„‟″«»", '"') | dict.fromkeys("‐‑‒–—―−", "-")
)


def normalized(text: str) -> str:
    """``text`` as it is compared with others: `folded`, blanks collapsed."""
    return " ".join(folded(text).split())


def folded(text: str) -> str:
    """``text`` in one Unicode form, with plain quotation marks, dashes and blanks."""
    plain = unicodedata.normalize("NFKD", text).translate(ALIKE)
    if plain.isascii():
        return plain
    return "".join(c for c in plain if unicodedata.category(c) != "Cf")  # invisible characters


def occurrences(text: str, within: str) -> list[tuple[int, int]]:
    """Spans of ``within`` that hold ``text``: literally, or else up to `folded`.

    Of several, the only one that is a whole word is taken.
    """
    return _spans(text, within) or _folded_spans(text, within)


def _spans(text: str, within: str) -> list[tuple[int, int]]:
    spans = [match.span() for match in re.finditer(re.escape(text), within)]
    words = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", within)]
    return words if len(words) == 1 else spans


def _folded_spans(text: str, within: str) -> list[tuple[int, int]]:
    """As `_spans`, of folded texts; a span never cuts a character from its combining marks."""
    starts = [i for i, c in enumerate(within) if i == 0 or not _attached(c)]
    plain, ends = "", {0: 0}  # where a character ends in `plain`, and where in `within`
    for start, end in pairwise([*starts, len(within)]):
        plain += folded(within[start:end])
        ends[len(plain)] = end
    spans = _spans(folded(text), plain) if folded(text) else []
    return [(ends[a], ends[b]) for a, b in spans if a in ends and b in ends]


def _attached(character: str) -> bool:
    """Whether it is a combining mark or invisible."""
    return unicodedata.combining(character) != 0 or unicodedata.category(character) == "Cf"
