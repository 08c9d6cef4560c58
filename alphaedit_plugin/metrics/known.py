"""What the unedited model knows: which facts are worth editing, and which must survive."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import torch

from alphaedit_plugin.common.cache import Cache
from alphaedit_plugin.common.console import progress_bar
from alphaedit_plugin.common.errors import ConfigError, RequestError
from alphaedit_plugin.common.tensor_file import read_tensors, write_tensors
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.request import Probe, Request, Row
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import tokenizer_digest, weights_digest
from alphaedit_plugin.models.scoring import score, tokenise_pairs

logger = logging.getLogger(__name__)

AT_ONCE = 256  # facts that are asked, and cached, together
ASKED_PER_FACT = 10  # candidates per wanted fact: bounds the time on a model that knows few


def knows(lm: EditableModel, facts: Sequence[Row]) -> list[bool]:
    """Whether the unedited model gives each answer in full, or one of its aliases.

    A fact that exceeds the model's context is not known.
    """
    right = []
    with progress_bar("what the model knows", len(facts), "facts") as bar:
        for one in _in_turn(lm, facts):
            right.append(one)
            bar.update()
    return right


def _in_turn(lm: EditableModel, facts: Sequence[Row]) -> Iterator[bool]:
    """`knows`, asked as the answers are taken; other runs on the same model find them cached."""
    cache = Cache.usable()
    model = "" if cache is None else weights_digest(lm) + tokenizer_digest(lm.tokenizer)
    for start in range(0, len(facts), AT_ONCE):
        part = facts[start : start + AT_ONCE]
        ask = partial(_knows, lm, part)
        if cache is None:
            yield from ask()
        else:
            key = {"model": model, "asked": [lm.separator, lm.chat], "facts": list(part)}
            yield from cache.computed("known", key, ask, _read, _write, logging.DEBUG)


def _read(path: Path) -> list[bool]:
    tensors, _ = read_tensors(path)
    return [bool(one) for one in tensors["right"].tolist()]


def _write(path: Path, right: list[bool]) -> None:
    write_tensors(path, {"right": torch.tensor(right, dtype=torch.uint8)}, {})


def _knows(lm: EditableModel, facts: Sequence[Row]) -> list[bool]:
    asked = [
        (number, (prompt, text))
        for number, (prompt, answer, others) in enumerate(facts)
        for text in (answer, *others)
        if _can_be_asked(lm, prompt, text)
    ]
    given = score(lm, [pair for _, pair in asked])
    right = {number for (number, _), a in zip(asked, given, strict=True) if a.accuracy == 1}
    return [number in right for number in range(len(facts))]


def _can_be_asked(lm: EditableModel, prompt: str, answer: str) -> bool:
    try:
        tokenise_pairs(lm, [(prompt, answer)])
    except RequestError:
        return False
    return True


def only_known(lm: EditableModel, data: EditData) -> EditData:
    """Drop records with a fact that the model does not know, and filter retention facts alike.

    Args:
        lm: the unedited model.
        data: a request without a ground truth is not known.

    Raises:
        ConfigError: the model knows none.
    """
    facts = [_fact_of(request) for request in data.requests]
    right = iter(knows(lm, [fact for fact in facts if fact is not None]))
    known = [fact is not None and next(right) for fact in facts]
    records = [where.record for where in data.locations] or list(range(len(known)))
    complete = {
        record: all(one for _, one in group)
        for record, group in groupby(zip(records, known, strict=True), key=lambda pair: pair[0])
    }
    stay = [number for number, record in enumerate(records) if complete[record]]
    if not stay:
        raise ConfigError(
            f"the model answers none of {len(facts)} facts right: remove data.known, or give "
            "data=… with facts that it knows"
        )
    logger.info("the model knows %d of %d facts: the others are left out", len(stay), len(facts))
    return replace(
        data,
        requests=tuple(data.requests[number] for number in stay),
        locations=tuple(data.locations[number] for number in stay) if data.locations else (),
        retention=known_of(lm, data.retention),
    )


def known_of(lm: EditableModel, probes: Mapping[str, Probe]) -> dict[str, Probe]:
    """Each group's facts that the model knows; empty groups are dropped."""
    known = {}
    for name, probe in probes.items():
        right = knows(lm, probe.rows)
        rows = [row for row, one in zip(probe.rows, right, strict=True) if one]
        if rows:
            known[name] = Probe.of(rows)
    return known


def facts_beside(
    lm: EditableModel, data: EditData, edited: Sequence[Request], count: int, seed: int
) -> Probe | None:
    """Facts of a data set that the model knows and that no edit is about.

    Args:
        lm: the unedited model.
        data: all that was read; facts are what its requests would replace.
        edited: the requests that are edited.
        count: how many facts at most.
        seed: draws them.

    Returns:
        ``None`` where there is none.
    """
    subjects = {request.subject for request in edited}
    apart = [request for request in data.requests if request.subject not in subjects]
    facts = dict.fromkeys(fact for fact in map(_fact_of, apart) if fact is not None)
    drawn = random.Random(seed).sample(list(facts), min(len(facts), count * ASKED_PER_FACT))
    known = (fact for fact, right in zip(drawn, _in_turn(lm, drawn), strict=True) if right)
    rows = list(islice(known, count))
    return Probe.of(rows) if rows else None


def _fact_of(request: Request) -> Row | None:
    """What the request replaces."""
    return None if request.ground_truth is None else (request.filled, request.ground_truth, ())
