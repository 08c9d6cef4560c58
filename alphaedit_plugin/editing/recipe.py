"""How a model is edited: everything but the model and the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.data.conflicts import OnConflict
from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.base import BaseMethod, missing_moment
from alphaedit_plugin.models.tokens import ContextTemplates
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
        on_conflict: what becomes of requests, and of earlier edits, that a later one contradicts.
    """

    method: BaseMethod
    layers: tuple[int, ...]
    contexts: ContextTemplates
    moments: Mapping[int, SecondMoment] = field(default_factory=dict)
    fact_token: FactToken = FactToken.subject_last
    targets: TargetSettings = field(default_factory=TargetSettings)
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

    def check(self, layers: Sequence[int]) -> None:
        """Refuse a recipe that cannot edit, before anything is computed or changed.

        Args:
            layers: those that a session may edit.

        Raises:
            ModelError: a layer that is not among them, or see `BaseMethod.check_layers`.
            ConfigError: a layer without the second moment that the method reads.
        """
        foreign = [layer for layer in self.layers if layer not in layers]
        if foreign:
            raise ModelError(
                f"layer {foreign[0]} is not among the session's layers {list(layers)}: "
                "start a session with all layers that are to be edited"
            )
        without = [layer for layer in self.layers if layer not in self.moments]
        if self.method.needs_moment and without:
            raise missing_moment(without[0])
        self.method.check_layers(self.layers)
