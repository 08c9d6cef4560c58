"""What a source of data gives: requests to edit, and facts that must survive them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from alphaedit_plugin.request import Probe, Request

NEIGHBOURHOOD = "neighbourhood"  # the locality probe that specificity is measured on


@dataclass(frozen=True)
class EditData:
    """Requests, and untouched facts.

    Attributes:
        requests: to edit, in order; neighbourhood prompts are a locality probe of theirs.
        retention: named probes of facts that no request is about.
    """

    requests: tuple[Request, ...]
    retention: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))
