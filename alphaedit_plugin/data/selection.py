"""Which of the data's requests are edited, and in which order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from alphaedit_plugin.data.base import Dropped, EditData, Place
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.request import Probe, Request

if TYPE_CHECKING:
    from alphaedit_plugin.config import DataConfig

Key = tuple[str, str]
Case = Sequence["Placed"]  # the requests of one record, which stay together


@dataclass(frozen=True)
class Placed:
    """A request and where it comes from."""

    request: Request
    place: Place

    @property
    def key(self) -> Key:
        """What it asks: the subject, and the relation or else the prompt."""
        return self.request.subject, self.request.relation or self.request.prompt

    @property
    def target(self) -> str:
        """The answer it wants, as it is compared."""
        return self.request.target_new.strip()


def select(data: EditData, settings: DataConfig) -> EditData:
    """Shuffle, ask each thing once, skip to the offset, and cut to the limit, in this order.

    Shuffling and skipping keep the requests of one record together; such a group is a case. With
    ``unique``, a case that gives another answer to what was asked before is dropped; an edit that
    was made before is not made again, and what follows from it (portability) is asked of the
    request behind which all of its case is edited.

    Returns:
        The data with the chosen requests, and what was dropped on the way.

    Raises:
        ConfigError: the offset skips all.
    """
    cases = _cases(data)
    if settings.shuffle_seed is not None:
        random.Random(settings.shuffle_seed).shuffle(cases)
    dropped: list[Dropped] = []
    if settings.unique:
        cases = list(_consistent(cases, dropped))
    if settings.offset >= len(cases) > 0:
        raise ConfigError(
            f"data.offset is {settings.offset}, but there are only {len(cases)} usable records"
        )
    cases = cases[settings.offset :]
    trimmed: list[Dropped] = []
    every = (one for case in cases for one in case)
    chosen = _merged(cases, trimmed) if settings.unique else list(every)
    chosen = chosen[: settings.limit]
    return replace(
        data,
        requests=tuple(one.request for one in chosen),
        places=tuple(one.place for one in chosen) if data.places else (),
        dropped=(*data.dropped, *dropped),
        trimmed=(*data.trimmed, *trimmed),
        conventions="; ".join(filter(None, (data.conventions, _say(settings)))),
    )


def _cases(data: EditData) -> list[Case]:
    places = data.places or [Place(i, None) for i in range(len(data.requests))]
    placed = [Placed(r, p) for r, p in zip(data.requests, places, strict=True)]
    return [list(group) for _, group in groupby(placed, key=lambda one: one.place.record)]


def _consistent(cases: Sequence[Case], dropped: list[Dropped]) -> Iterator[Case]:
    """Cases without those that contradict or merely repeat an earlier one."""
    seen: dict[Key, Placed] = {}
    for case in cases:
        own = {one.key: one for one in case}
        reason = _contradiction(case, own, seen) or _repetition(case, seen)
        if reason is None:
            for key, one in own.items():
                seen.setdefault(key, one)
            yield case
        else:
            place = case[0].place
            dropped.append(Dropped(place.record, place.line, reason))


def _contradiction(case: Case, own: Mapping[Key, Placed], seen: Mapping[Key, Placed]) -> str | None:
    for one in case:
        for other in (own[one.key], seen.get(one.key, one)):
            if other.target != one.target:
                return (
                    f"asks the same of {one.request.subject!r} as {other.place}, with another "
                    f"answer: {one.target!r}, not {other.target!r}"
                )
    return None


def _repetition(case: Case, seen: Mapping[Key, Placed]) -> str | None:
    """A case whose every edit is made before, and that asks nothing of them together."""
    if all(one.key in seen and not one.request.portability for one in case):
        return f"repeats {seen[case[0].key].place}"
    return None


def _merged(cases: Sequence[Case], trimmed: list[Dropped]) -> list[Placed]:
    """All edits, each once; a repeated one's portability goes to where its case is complete."""
    made: dict[Key, int] = {}
    chosen: list[Placed] = []
    for case in cases:
        follows: list[Mapping[str, Probe]] = []
        for one in case:
            if one.key in made:
                follows.append(one.request.portability)
                first = chosen[made[one.key]]
                reason = f"its edit of {one.request.subject!r} is made once, with {first.place}"
                trimmed.append(Dropped(one.place.record, one.place.line, reason))
            else:
                made[one.key] = len(chosen)
                chosen.append(one)
        complete = max(made[one.key] for one in case)
        for probes in follows:
            one = chosen[complete]
            joined = _join(one.request.portability, probes)
            chosen[complete] = replace(one, request=replace(one.request, portability=joined))
    return chosen


def _join(first: Mapping[str, Probe], second: Mapping[str, Probe]) -> Mapping[str, Probe]:
    """Both; probes of the same name become one, and what both ask is asked once."""
    joined = dict(first)
    for name, probe in second.items():
        known = joined[name].rows if name in joined else []
        joined[name] = Probe.of(list(dict.fromkeys(known + probe.rows)))
    return joined


def _say(settings: DataConfig) -> str:
    parts = []
    if settings.shuffle_seed is not None:
        parts.append(f"shuffled with seed {settings.shuffle_seed}")
    if settings.offset:
        parts.append(f"from case {settings.offset} on")
    if not settings.unique:
        parts.append("repeated and contradicting requests kept")
    return ", ".join(parts)
