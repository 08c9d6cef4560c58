"""Target values ``z``: searched for a batch at once, or found again where another run left them."""

from __future__ import annotations

from alphaedit_plugin.targets.search import (
    Targets,
    TargetSearch,
    optimise_targets,
    target_sentences,
)
from alphaedit_plugin.targets.settings import OnFailure, TargetError, TargetSettings

__all__ = [
    "OnFailure",
    "TargetError",
    "TargetSearch",
    "TargetSettings",
    "Targets",
    "optimise_targets",
    "target_sentences",
]
