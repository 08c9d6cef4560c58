"""Which of the data's requests are edited, and in which order."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

from alphaedit_plugin.common.errors import ConfigError, RequestError, counted
from alphaedit_plugin.data.base import DATA, Dropped, EditData, Place
from alphaedit_plugin.data.conflicts import Question, answer, questions
from alphaedit_plugin.data.notes import summarise
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.settings import Chosen, DataConfig

logger = logging.getLogger(__name__)

Check = Callable[[Request], object]  # raises `RequestError` for what cannot be edited
Case = Sequence["Placed"]  # the requests of one record, which stay together


@dataclass(frozen=True)
class Placed:
    """A request and where it comes from."""

    request: Request
    place: Place


def select_fitting(
    data: EditData, settings: DataConfig, check: Check = lambda request: None
) -> EditData:
    """Shuffle, drop what does not fit, ask each thing once, skip to the offset, cut to the limit.

    In this order, and record after record until the limit is met, so that another record takes the
    place of one that is dropped. The requests of one record, a case, stay together: one that cannot
    be edited drops them all. With ``unique``, a case that gives another answer to what was asked
    before is dropped; an edit that was made before is not made again, and what follows from it
    (portability) is asked of the request after which all of its case is edited. What is not used is
    in the result, and logged as a warning, grouped by reason.

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
        why = f": {summarise(dropped)}" if dropped else ""
        raise ConfigError(f"data={settings.name} holds no request that can be edited{why}")
    _warn(where, dropped, trimmed)
    return replace(
        data,
        requests=tuple(one.request for one in chosen),
        places=tuple(one.place for one in chosen) if data.places else (),
        dropped=tuple(dropped),
        trimmed=tuple(trimmed),
        conventions="; ".join(filter(None, (data.conventions, _say(settings)))),
    )


def _cases(data: EditData) -> list[Case]:
    places = data.places or [Place(i, None) for i in range(len(data.requests))]
    placed = [Placed(r, p) for r, p in zip(data.requests, places, strict=True)]
    return [list(group) for _, group in groupby(placed, key=lambda one: one.place.record)]


def _fitting(
    cases: Iterable[Case], check: Check, strict: str | None, dropped: list[Dropped]
) -> Iterator[Case]:
    """Cases of which every request passes; the first other one is refused where ``strict``."""
    for case in cases:
        try:
            for one in case:
                check(one.request)
        except RequestError as error:
            unfit = Dropped(case[0].place.record, case[0].place.line, str(error))
            if strict is not None:
                raise _refusal(strict, unfit) from None
            dropped.append(unfit)
        else:
            yield case


def _refusal(where: str, unfit: Dropped) -> RequestError:
    place = Place(unfit.record, unfit.line)
    return RequestError(f"{where}: {place}: {unfit.reason}; data.strict=false leaves it out")


def _consistent(cases: Iterable[Case], dropped: list[Dropped]) -> Iterator[Case]:
    """Cases without those that contradict or merely repeat an earlier one."""
    seen: dict[Question, Placed] = {}
    for case in cases:
        own: dict[Question, Placed] = {}
        reason = _contradiction(case, own, seen) or _repetition(case, seen)
        if reason is None:
            seen |= {q: one for q, one in own.items() if q not in seen}
            yield case
        else:
            place = case[0].place
            dropped.append(Dropped(place.record, place.line, reason))


def _contradiction(
    case: Case, own: dict[Question, Placed], seen: Mapping[Question, Placed]
) -> str | None:
    """A case with another answer than an earlier one's, or than its ``own``, which are noted."""
    for one in case:
        for question in questions(one.request):
            for other in (own.setdefault(question, one), seen.get(question, one)):
                if answer(other.request) != answer(one.request):
                    return (
                        f"asks the same of {one.request.subject!r} as {other.place}, with another "
                        f"answer: {one.request.target_new.strip()!r}, not "
                        f"{other.request.target_new.strip()!r}"
                    )
    return None


def _repetition(case: Case, seen: Mapping[Question, Placed]) -> str | None:
    """A case whose every edit is made before, and that asks nothing of them together."""
    before = [[seen[q] for q in questions(one.request) if q in seen] for one in case]
    if all(before) and not any(one.request.portability for one in case):
        return f"repeats {before[0][0].place}"
    return None


def _chosen(cases: Iterable[Case], settings: DataConfig, trimmed: list[Dropped]) -> list[Placed]:
    """The requests of ``cases`` up to the limit.

    With ``unique`` each edit once; a repeated one's portability goes to where its case is complete.
    """
    made: dict[Question, int] = {}
    chosen: list[Placed] = []
    for case in cases:
        follows: list[Mapping[str, Probe]] = []
        complete = 0
        for one in case:
            asked = questions(one.request) if settings.unique else set()
            number = min((made[q] for q in asked if q in made), default=len(chosen))
            if number < len(chosen):
                follows.append(one.request.portability)
                first = chosen[number]
                reason = f"its edit of {one.request.subject!r} is made once, with {first.place}"
                trimmed.append(Dropped(one.place.record, one.place.line, reason))
            else:
                chosen.append(one)
            made |= {q: number for q in asked if q not in made}
            complete = max(complete, number)
        for probes in follows:
            one = chosen[complete]
            joined = _join(one.request.portability, probes)
            chosen[complete] = replace(one, request=replace(one.request, portability=joined))
        if settings.limit is not None and len(chosen) >= settings.limit:
            break
    return chosen[: settings.limit]


def _warn(where: str, dropped: Sequence[Dropped], trimmed: Sequence[Dropped]) -> None:
    if dropped:
        records = counted(len(dropped), "record")
        logger.warning("%s: %s dropped: %s", where, records, summarise(dropped))
    if trimmed:
        records = counted(len({one.record for one in trimmed}), "record")
        logger.warning("%s: parts of %s left out: %s", where, records, summarise(trimmed))


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


def read_data(config: Chosen) -> EditData:
    """All requests and retained facts that ``config.data`` names; see `select_fitting`.

    Raises:
        ConfigError: unknown data, a setting that is missing or not read, or a file that is missing
            or of another kind.
    """
    return DATA.get(config.data.name)(config)


def load_data(config: Chosen) -> EditData:
    """The requests and retained facts that ``config.data`` names and selects, for any model.

    Raises:
        AlphaEditError: see `read_data` and `select_fitting`.
    """
    return select_fitting(read_data(config), config.data)
