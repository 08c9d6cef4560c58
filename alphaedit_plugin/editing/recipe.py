"""How a model is edited: everything but the model and the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from alphaedit_plugin.data.conflicts import OnConflict
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.editing.targets import TargetSearch, optimise_targets
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.models.tokens import ContextTemplates, FactToken
from alphaedit_plugin.nullspace.second_moment import SecondMoment


@dataclass(frozen=True)
class Recipe:
    """Everything an edit needs besides the model and the requests.

    Attributes:
        method: a base method, plain or projected.
        layers: edited in this order.
        contexts: the context templates of keys and targets.
        moments: second moment per layer, for the methods that read it.
        fact_token: which token holds the fact.
        targets: how target values are searched.
        search: what searches; a `StoredTargets` finds again what another run has found.
        on_conflict: what becomes of requests, and of earlier edits, that a later one contradicts.
    """

    method: BaseMethod
    layers: tuple[int, ...]
    contexts: ContextTemplates
    moments: Mapping[int, SecondMoment] = field(default_factory=dict)
    fact_token: FactToken = FactToken.subject_last
    targets: TargetSettings = field(default_factory=TargetSettings)
    search: TargetSearch = optimise_targets
    on_conflict: OnConflict = OnConflict.last

    def description(self) -> dict[str, Any]:
        """What this recipe is, in JSON, for a journal."""
        return {
            **self.method.description(),
            "layers": list(self.layers),
            "contexts": [list(group) for group in self.contexts.groups],
            "fact_token": self.fact_token.value,
            "targets": asdict(self.targets),
        }


@dataclass(frozen=True)
class Stage:
    """Requests whose targets are found together, and the layers that then write them."""

    requests: tuple[Request, ...]
    layers: tuple[int, ...]


def stages(recipe: Recipe, requests: Sequence[Request]) -> list[Stage]:
    """Split a batch as its method works: all at once, or one request and layer after another."""
    if recipe.method.one_by_one:
        return [Stage((request,), (layer,)) for request in requests for layer in recipe.layers]
    return [Stage(tuple(requests), recipe.layers)]
