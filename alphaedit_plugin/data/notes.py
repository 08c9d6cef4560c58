"""Saying what was not used of a file: grouped by reason, with record and line numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from alphaedit_plugin.data.base import Dropped, Place

QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")  # what differs between records with the same fault
GROUPS = 5  # faults that are listed, the most frequent first
PLACES = 5  # records that are listed of each


def summarise(dropped: Iterable[Dropped]) -> str:
    """One line: each fault, how often, and where; of faults that differ in names, the first one."""
    groups: dict[str, list[Dropped]] = {}
    for one in dropped:
        groups.setdefault(QUOTED.sub("…", one.reason), []).append(one)
    ordered = sorted(groups.values(), key=len, reverse=True)
    parts = [f"{len(group)} × {_reason(group)} [{_places(group)}]" for group in ordered[:GROUPS]]
    if len(ordered) > GROUPS:
        parts.append(f"{sum(map(len, ordered[GROUPS:]))} for other reasons")
    return "; ".join(parts)


def _reason(group: Sequence[Dropped]) -> str:
    alike = len({one.reason for one in group}) == 1
    return group[0].reason if alike else f"such as: {group[0].reason}"


def _places(group: Sequence[Dropped]) -> str:
    shown = ", ".join(str(Place(one.record, one.line)) for one in group[:PLACES])
    return shown + (f" and {len(group) - PLACES} more" if len(group) > PLACES else "")
