"""Which of the data's requests are edited, and in which order."""

from __future__ import annotations

import logging
import random
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TypeVar

from alphaedit_plugin.common.errors import ConfigError, RequestError, counted
from alphaedit_plugin.data.base import DATA, Dropped, EditData, Location, options_of, summarize
from alphaedit_plugin.data.request import Probe, Question, Request
from alphaedit_plugin.data.settings import Chosen, DataConfig

logger = logging.getLogger(__name__)

Check = Callable[[Request], object]  # raises `RequestError` for what cannot be edited
Case = Sequence["Located"]  # the requests of one record, which stay together
T = TypeVar("T")


@dataclass(frozen=True)
class Located:
    """A request and where it comes from."""

    request: Request
    location: Location

    def same(self, earlier: Mapping[Question, T]) -> list[T]:
        """What is there for its questions."""
        return [earlier[q] for q in self.request.questions if q in earlier]


def select_fitting(
    data: EditData, settings: DataConfig, check: Check = lambda request: None
) -> EditData:
    """Shuffle, drop what does not fit, ask each thing once, skip to the offset, cut to the limit.

    In this order, and record after record until the limit is met, so that another record replaces
    one that is dropped. The requests of one record, a case, stay together: one that cannot be
    edited drops them all. With ``unique``, a case that contradicts an earlier one is dropped; an
    edit that was made before is not repeated, and its portability probes move to the request after
    which all of its case is edited. What is not used is in the result, and logged as a warning,
    grouped by reason.

    Args:
        data: all that was read.
        settings: which of it.
        check: refuses a request that cannot be edited.

    Raises:
        ConfigError: the offset skips all, or nothing is left.
        RequestError: a record cannot be used, and ``settings.strict``.
    """
    where = data.name or settings.name
    if settings.strict and data.dropped:
        raise _refusal(where, data.dropped[0])
    cases = _cases(data)
    if settings.shuffle_seed is not None:
        random.Random(settings.shuffle_seed).shuffle(cases)
    dropped, trimmed = list(data.dropped), list(data.trimmed)
    usable = _fitting(cases, check, where if settings.strict else None, dropped)
    if settings.unique:
        usable = _consistent(usable, dropped)
    skipped = sum(1 for _ in islice(usable, settings.offset))
    chosen = _chosen(usable, settings, trimmed)
    if skipped and not chosen:
        raise ConfigError(
            f"data.offset is {settings.offset}, but there are only {skipped} usable records"
        )
    if not chosen:
        why = f": {summarize(dropped)}" if dropped else ""
        raise ConfigError(f"data={settings.name} holds no request that can be edited{why}")
    _warn(where, dropped, trimmed)
    return replace(
        data,
        requests=tuple(one.request for one in chosen),
        locations=tuple(one.location for one in chosen) if data.locations else (),
        dropped=tuple(dropped),
        trimmed=tuple(trimmed),
        conventions="; ".join(filter(None, (data.conventions, _say(settings)))),
    )


def _cases(data: EditData) -> list[Case]:
    locations = data.locations or [Location(i) for i in range(len(data.requests))]
    placed = [Located(r, p) for r, p in zip(data.requests, locations, strict=True)]
    return [list(group) for _, group in groupby(placed, key=lambda one: one.location.record)]


def _fitting(
    cases: Iterable[Case], check: Check, strict: str | None, dropped: list[Dropped]
) -> Iterator[Case]:
    """Cases that pass the check as a whole; where ``strict``, one that does not is an error."""
    for case in cases:
        try:
            for one in case:
                check(one.request)
        except RequestError as error:
            unfit = Dropped(case[0].location, str(error))
            if strict is not None:
                raise _refusal(strict, unfit) from None
            dropped.append(unfit)
        else:
            yield case


def _refusal(where: str, unfit: Dropped) -> RequestError:
    return RequestError(f"{where}: {unfit.location}: {unfit.reason}; data.strict=false drops it")


def _consistent(cases: Iterable[Case], dropped: list[Dropped]) -> Iterator[Case]:
    """Cases without those that contradict or merely repeat an earlier one."""
    seen: dict[Question, Located] = {}  # the first to ask it
    for case in cases:
        asked = ChainMap({}, seen)
        pairs = [(one, asked.setdefault(q, one)) for one in case for q in one.request.questions]
        clash = [pair for pair in pairs if pair[0].request.answer != pair[1].request.answer]
        before = [one.same(seen) for one in case]
        if clash:
            one, other = clash[0]
            reason = (
                f"asks the same of {one.request.subject!r} as {other.location}, with another "
                f"answer: {one.request.target_new.strip()!r}, not "
                f"{other.request.target_new.strip()!r}"
            )
        elif all(before) and not any(one.request.portability for one in case):
            reason = f"repeats {before[0][0].location}"
        else:
            seen |= asked.maps[0]
            yield case
            continue
        dropped.append(Dropped(case[0].location, reason))


def _chosen(cases: Iterable[Case], settings: DataConfig, trimmed: list[Dropped]) -> list[Located]:
    """The requests of ``cases`` up to the limit.

    With ``unique`` each edit is made once; the portability probes of a repeated one move to the
    request that completes its case.
    """
    made: dict[Question, int] = {}
    chosen: list[Located] = []
    for case in cases:
        moved: list[Mapping[str, Probe]] = []
        complete = 0
        for one in case:
            number = min(one.same(made), default=len(chosen))
            if number < len(chosen):
                moved.append(one.request.portability)
                first = chosen[number]
                reason = f"its edit of {one.request.subject!r} is made once, with {first.location}"
                trimmed.append(Dropped(one.location, reason))
            else:
                chosen.append(one)
            for question in one.request.questions if settings.unique else ():
                made.setdefault(question, number)
            complete = max(complete, number)
        for probes in moved:
            one = chosen[complete]
            joined = _join(one.request.portability, probes)
            chosen[complete] = replace(one, request=replace(one.request, portability=joined))
        if settings.limit is not None and len(chosen) >= settings.limit:
            break
    return chosen[: settings.limit]


def _warn(where: str, dropped: Sequence[Dropped], trimmed: Sequence[Dropped]) -> None:
    if dropped:
        records = counted(len(dropped), "record")
        logger.warning("%s: %s dropped: %s", where, records, summarize(dropped))
    if trimmed:
        records = counted(len({one.location.record for one in trimmed}), "record")
        logger.warning("%s: parts of %s left out: %s", where, records, summarize(trimmed))


def _join(first: Mapping[str, Probe], second: Mapping[str, Probe]) -> Mapping[str, Probe]:
    """Both; probes of the same name are merged without repetitions."""
    joined = dict(first)
    for name, probe in second.items():
        rows = joined[name].rows if name in joined else []
        joined[name] = Probe.of(list(dict.fromkeys(rows + probe.rows)))
    return joined


def _say(settings: DataConfig) -> str:
    parts = []
    if settings.shuffle_seed is not None:
        parts.append(f"shuffled with seed {settings.shuffle_seed}")
    if settings.offset:
        parts.append(f"from case {settings.offset} on")
    if settings.known:
        parts.append("facts that the unedited model knows")
    if not settings.unique:
        parts.append("repeated and contradicting requests kept")
    return ", ".join(parts)


def read_data(config: Chosen) -> EditData:
    """All requests and retained facts of the data set that ``config.data`` names.

    Raises:
        ConfigError: an unknown data set, an option that it does not have, or see `DataSet.load`.
    """
    source = DATA.get(config.data.name)
    return source.load(options_of(config.data), config)


def load_data(config: Chosen) -> EditData:
    """The requests and retained facts that ``config.data`` names and selects, for any model.

    Raises:
        AlphaEditError: see `read_data` and `select_fitting`.
    """
    return select_fitting(read_data(config), config.data)
