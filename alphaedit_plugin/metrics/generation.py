"""What the edited model says when it continues freely: fluency and consistency.

Both are ROME's (Meng et al. 2022, §3.3 and appendix D): from each prompt about the edited subject
a text of 100 tokens is drawn, top-5.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import log, log2, sqrt
from statistics import fmean

from alphaedit_plugin.metrics.base import EvalContext, MetricValues, means, metric

WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # of bigrams and trigrams; the host's n_gram_entropy


@metric("fluency", costly=True)
def fluency(context: EvalContext) -> MetricValues:
    """`n_gram_entropy` of the drawn texts, in bits, averaged over a request's, then over all.

    Low for a text that repeats itself. Papers multiply it by 100.
    """
    values = [[fmean(map(n_gram_entropy, texts))] if texts else [] for texts in context.drawn()]
    return means({"fluency": values})


@metric("consistency", costly=True)
def consistency(context: EvalContext) -> MetricValues:
    """Cosine of the TF-IDF vectors of a request's drawn texts and of its reference texts.

    References are about subjects of which the new answer is true. Document frequencies are those of
    `EvalContext.references`, or of all requests' if that is empty. Papers multiply it by 100.
    """
    corpus = context.references or [text for r in context.requests for text in r.references]
    vector = tf_idf(corpus)
    drawn = context.drawn() if corpus else [[] for _ in context.requests]
    values = [
        [cosine(vector(" ".join(texts)), vector(" ".join(request.references)))]
        if texts and request.references
        else []
        for request, texts in zip(context.requests, drawn, strict=True)
    ]
    return means({"consistency": values})


def words(text: str) -> list[str]:
    """Words and punctuation marks."""
    return re.findall(r"\w+|[^\w\s]", text)


def n_gram_entropy(text: str) -> float:
    """``½ Σₙ wₙ Hₙ`` with ``Hₙ = -Σ f log₂ f`` over the shares ``f`` of n-grams of words.

    ``n`` is 2 and 3 with ``w = ⅔, 4⁄3`` (Zhang et al. 2018, as ROME and the host weigh it).
    """
    tokens = words(text)
    return sum(w * _entropy(tokens, n) for n, w in WEIGHTS.items()) / len(WEIGHTS)


def _entropy(tokens: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(c / total * log2(c / total) for c in counts.values())


def tf_idf(corpus: Sequence[str]) -> Callable[[str], dict[str, float]]:
    """A function from texts to sparse vectors, as scikit-learn's ``TfidfVectorizer`` makes them.

    A word's weight is its count times ``ln((1 + n) / (1 + d)) + 1``, where ``d`` of the ``n``
    texts of ``corpus`` contain it; other words are ignored.
    """
    frequencies = Counter(word for text in corpus for word in set(_terms(text)))
    weights = {w: log((1 + len(corpus)) / (1 + d)) + 1 for w, d in frequencies.items()}

    def vector(text: str) -> dict[str, float]:
        return {w: c * weights[w] for w, c in Counter(_terms(text)).items() if w in weights}

    return vector


def _terms(text: str) -> list[str]:
    return re.findall(r"\b\w\w+\b", text.lower())


def cosine(one: dict[str, float], other: dict[str, float]) -> float:
    """Of two sparse vectors; 0 where one is 0."""
    dot = sum(value * other.get(word, 0.0) for word, value in one.items())
    norms = [sqrt(sum(v * v for v in vector.values())) for vector in (one, other)]
    return dot / (norms[0] * norms[1]) if all(norms) else 0.0
