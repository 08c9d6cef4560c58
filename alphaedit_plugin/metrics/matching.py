"""Whether a text gives an answer, and whether it degenerates."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from math import log2
from types import MappingProxyType

from alphaedit_plugin.data.spelling import folded
from alphaedit_plugin.metrics.generation import WEIGHTS, n_gram_entropy, words
from alphaedit_plugin.models.boundary import separator_of

ARTICLES = re.compile(r"\b(a|an|the)\b")
# In a row; a text that says less than this share of what its words could (in bits) degenerates.
REPEATED, PHRASE, VARIETY, LEAST_WORDS = 3, 4, 0.6, 8
APOSTROPHES = "'’"

Matcher = Callable[[str, str], bool]


def normalise(text: str) -> str:
    """Without case, punctuation, articles and surplus blanks (SQuAD's, WILD's and EasyEdit's).

    What would leave nothing ("The The", "?") keeps its articles, or else its punctuation.
    """
    lower = unicodedata.normalize("NFKC", folded(text)).lower()
    plain = "".join(c for c in lower if not (_is_mark(c) or unicodedata.category(c)[0] == "P"))
    candidates = (" ".join(one.split()) for one in (ARTICLES.sub(" ", plain), plain, lower))
    return next(filter(None, candidates), "")


def _is_mark(character: str) -> bool:
    """ASCII's symbols count as punctuation, too (Python's ``string.punctuation``)."""
    return character.isascii() and unicodedata.category(character)[0] == "S"


def exact(text: str, answer: str) -> bool:
    """Whether the text is the answer."""
    return normalise(text) == normalise(answer)


def says(text: str, answer: str) -> bool:
    """Whether the text begins with the answer and then stops: at its end or a punctuation mark."""
    wanted = normalise(answer)
    ends = [match.end() for match in re.finditer(r"\w+", text)] or [len(text)]
    return any(normalise(text[:end]) == wanted and _stops(text[end:].lstrip()) for end in ends)


def _stops(rest: str) -> bool:
    mark = rest[:1]
    return not mark or (
        unicodedata.category(mark) in ("Po", "Pe", "Pf") and mark not in APOSTROPHES
    )


def contains(text: str, answer: str) -> bool:
    """Whether the text holds the answer, as whole words where the script has blanks."""
    whole, wanted = normalise(text), normalise(answer)
    if separator_of(wanted, ()) == "":
        return wanted in whole
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", whole) is not None


MATCHERS: Mapping[str, Matcher] = MappingProxyType(
    {"exact": exact, "says": says, "contains": contains}
)


def verdicts(text: str, answers: Sequence[str]) -> dict[str, bool]:
    """What each matcher says; any of the answers is right."""
    return {
        name: any(matches(text, answer) for answer in answers) for name, matches in MATCHERS.items()
    }


def degenerates(text: str) -> bool:
    """Whether a text repeats itself.

    A phrase of up to `PHRASE` words stands `REPEATED` times in a row; or a text of `LEAST_WORDS` or
    more has less than `VARIETY` of the `n_gram_entropy` of as many different words.
    """
    tokens = [word.lower() for word in words(text)]
    for size in range(1, PHRASE + 1):
        span = size * REPEATED
        for start in range(len(tokens) - span + 1):
            if tokens[start : start + span] == tokens[start : start + size] * REPEATED:
                return True
    if len(tokens) < LEAST_WORDS:
        return False
    most = sum(w * log2(len(tokens) - n + 1) for n, w in WEIGHTS.items()) / len(WEIGHTS)
    return n_gram_entropy(text.lower()) < VARIETY * most
