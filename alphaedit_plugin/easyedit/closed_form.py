"""AlphaEdit's closed form inside the host's MEMIT, fed by what MEMIT computes on its way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.data.request import Question, questions_of
from alphaedit_plugin.data.spelling import normalized
from alphaedit_plugin.easyedit.key_history import KeyHistory
from alphaedit_plugin.methods.least_squares import least_squares
from alphaedit_plugin.nullspace.projector import Projector

COMPUTE_Z, COMPUTE_KS, READ_AT = "compute_z", "compute_ks", "get_module_input_output_at_words"


@dataclass(frozen=True)
class HostRequest:
    """What the host asks, as it is compared; see `Request.questions`."""

    questions: tuple[Question, ...]
    answer: str

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> HostRequest:
        """From the host's own form."""
        asked = questions_of(request["prompt"], request["subject"])
        return cls(asked, normalized(request["target_new"]))


@dataclass(frozen=True)
class Noted:
    """One call of a function of the host's, and what it returned."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Any


@dataclass
class ClosedForm:
    """AlphaEdit's closed form for one call of MEMIT.

    Attributes:
        module: the host's MEMIT module, whose functions are listened to.
        projectors: by weight, in the order of the layer loop.
        ridge: ``L2``.
        histories: keys of earlier edits, by weight.
        noted: the calls of each function so far.
    """

    module: ModuleType
    projectors: Mapping[str, Projector]
    ridge: float
    histories: Mapping[str, KeyHistory]
    noted: dict[str, list[Noted]] = field(default_factory=lambda: defaultdict(list))

    def listening(self) -> dict[str, Callable[..., Any]]:
        """Replacements of the module's functions that note each call, and one for ``get_cov``."""

        def listener(name: str) -> Callable[..., Any]:
            function = getattr(self.module, name)

            def note(*args: Any, **kwargs: Any) -> Any:
                result = function(*args, **kwargs)
                self.noted[name].append(Noted(args, kwargs, result))
                return result

            return note

        def get_cov(*_: Any, **__: Any) -> Tensor:
            """The closed form needs no second moment; collecting one would cost hours."""
            keys: Tensor = self.noted[COMPUTE_KS][-1].result
            return torch.eye(keys.shape[1], device=keys.device)

        return {"get_cov": get_cov} | {
            name: listener(name) for name in (COMPUTE_Z, COMPUTE_KS, READ_AT)
        }

    @property
    def requests(self) -> list[HostRequest]:
        """What was asked."""
        rows = [call.args[2] for call in self.noted[COMPUTE_Z]]
        return [HostRequest.of(row) for row in rows]

    def update(self, number: int) -> Tensor:
        """``Δ (d_out, d_in)`` of the weight of this number in the loop; see `least_squares`."""
        name, projector = list(self.projectors.items())[number]
        targets = torch.stack([call.result for call in self.noted[COMPUTE_Z]], dim=1)
        missing = targets - self.noted[READ_AT][number].result.T.to(targets)
        residual = missing.detach().float() / (len(self.projectors) - number)
        keys = self.noted[COMPUTE_KS][number].result.T.detach().float()
        past = self.histories[name].past(self.requests)
        return least_squares(projector, self.ridge, past, keys, residual.to(keys)).dense

    def remember(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Note the batch's keys in the edited model.

        Args:
            before: the weights ``(d_out, d_in)`` as the edit found them.
            after: the same as it left them.
        """
        for name, call in zip(self.projectors, self.noted[COMPUTE_KS], strict=True):
            keys = getattr(self.module, COMPUTE_KS)(*call.args, **call.kwargs).T.detach().float()
            self.histories[name].remember(before[name], after[name], keys, self.requests)
