"""One call of a host method with the null space: the projector inside the host's own layer loop.

Every method module of the host passes each update through its global ``upd_matrix_match_shape``
right before writing it, once per weight in the layer loop and once per weight in the apply step.
For the length of one call that global is ours: what it returns is projected, so that later layers'
residuals see projected weights, and the apply step writes exactly what the loop wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.common.errors import ConfigError, NumericalError
from alphaedit_plugin.data.request import Question, questions_of
from alphaedit_plugin.data.spelling import normalized
from alphaedit_plugin.easyedit.host import HostError, HostMethod, refuse_offloaded
from alphaedit_plugin.easyedit.key_history import KeyHistory
from alphaedit_plugin.methods.least_squares import least_squares
from alphaedit_plugin.nullspace.projector import Projector

GATE = "upd_matrix_match_shape"


@dataclass
class Gate:
    """Stands in for ``upd_matrix_match_shape`` during one call.

    Attributes:
        names: the edited weights, in the order of the loop.
        transposed: whether a weight's module stores it ``(d_in, d_out)``.
        projectors: one per weight.
        rank_one: see `HostMethod.rank_one`; a square weight's shape cannot tell.
        update: what to write instead of the host's update, ``(d_out, d_in)``; ``None`` keeps it.
        written: what the loop wrote, as stored, by weight.
        calls: how often the host has come through.
    """

    names: list[str]
    transposed: Mapping[str, bool]
    projectors: Mapping[str, Projector]
    rank_one: bool
    update: Callable[[int], Tensor] | None = None
    written: dict[str, Tensor] = field(default_factory=dict)
    calls: int = 0

    def __call__(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """The update of the weight whose turn it is, projected, in its storage order."""
        place, self.calls = self.calls, self.calls + 1
        name = self.names[place % len(self.names)]
        if place >= len(self.names):
            return self.written[name]
        if self.update is not None:
            oriented = self.update(place).to(matrix.device)
        else:
            oriented = matrix.T if self.rank_one else matrix
        # ROME's come in the model's dtype; in half precision U would not be orthonormal.
        precise = oriented.to(torch.promote_types(oriented.dtype, torch.float32))
        projected = self.projectors[name].apply(precise.T).to(matrix.dtype)
        stored = projected if self.transposed[name] else projected.T
        if stored.shape != shape:
            raise HostError(
                f"the host's update of {name} is {tuple(stored.shape)}, the weight {tuple(shape)}: "
                "this version of EasyEdit is not supported; no weight was changed"
            )
        if not torch.isfinite(projected).all():
            raise NumericalError(f"the update of {name} is not finite: no weight was changed")
        self.written[name] = stored
        return self.written[name]

    def check(self) -> None:
        """Refuse a host whose layer loop no longer works as described above."""
        if self.calls != 2 * len(self.names):
            raise HostError(
                f"the host wrote {self.calls} updates where {2 * len(self.names)} were expected: "
                "this version of EasyEdit is not supported; no weight was changed"
            )


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


@dataclass
class ClosedForm:
    """AlphaEdit's closed form, fed by what the host's MEMIT computes on its way.

    Attributes:
        module: the host's MEMIT module, whose helpers are listened to.
        names: the edited weights, in the order of the loop.
        projectors: one per weight.
        ridge: ``L2``.
        histories: keys of earlier edits, by weight.
    """

    module: ModuleType
    names: list[str]
    projectors: Mapping[str, Projector]
    ridge: float
    histories: Mapping[str, KeyHistory]
    requests: list[HostRequest] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    current: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def listen(self) -> dict[str, Callable[..., Any]]:
        """Replacements of the module's globals that pass everything on, and note it."""
        z, ks, at = (
            getattr(self.module, name)
            for name in ("compute_z", "compute_ks", "get_module_input_output_at_words")
        )

        def compute_z(model: Any, tok: Any, request: Mapping[str, Any], *rest: Any) -> Any:
            self.requests.append(HostRequest.of(request))
            self.targets.append(z(model, tok, request, *rest))
            return self.targets[-1]

        def compute_ks(*args: Any, **kwargs: Any) -> Any:
            self.asked.append((args, kwargs))
            self.keys.append(ks(*args, **kwargs))
            return self.keys[-1]

        def values_at(*args: Any, **kwargs: Any) -> Any:
            self.current.append(at(*args, **kwargs))
            return self.current[-1]

        def get_cov(*args: Any, **kwargs: Any) -> Tensor:
            """The closed form reads none; collecting one would cost the host hours."""
            projector = self.projectors[self.names[len(self.keys) - 1]]
            return torch.eye(projector.d_in, device=self.keys[-1].device)

        return {
            "get_cov": get_cov,
            "compute_z": compute_z,
            "compute_ks": compute_ks,
            "get_module_input_output_at_words": values_at,
        }

    def update(self, place: int) -> Tensor:
        """``Δ (d_out, d_in)`` of the ``place``-th weight; see `least_squares`."""
        name = self.names[place]
        targets = torch.stack(self.targets, dim=1)
        missing = targets - self.current[place].T.to(targets)
        residual = missing.detach().float() / (len(self.names) - place)
        keys = self.keys[place].T.detach().float()
        past = self.histories[name].past(self.requests)
        return least_squares(self.projectors[name], self.ridge, past, keys, residual.to(keys)).dense

    def remember(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Note the batch's keys in the edited model.

        Args:
            before: the weights ``(d_out, d_in)`` as the edit found them.
            after: the same, as it left them.
        """
        again = self.module.compute_ks
        for name, (args, kwargs) in zip(self.names, self.asked, strict=True):
            keys = again(*args, **kwargs).T.detach().float()
            self.histories[name].remember(before[name], after[name], keys, self.requests)


@contextmanager
def replaced(module: ModuleType, globals_: Mapping[str, Any]) -> Iterator[None]:
    """Give ``module`` other globals; as before on exit, also on error."""
    before = {name: vars(module)[name] for name in globals_}
    vars(module).update(globals_)
    try:
        yield
    finally:
        vars(module).update(before)


@contextmanager
def unharmed(weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """On an error put the weights back: the host's layer loop leaves its writes in.

    Yields:
        A copy of the weights.
    """
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield before
    except BaseException:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
        raise


@contextmanager
def padding_right(tokenizer: Any) -> Iterator[None]:
    """Pad on the right, where padding does not move the subject; as before on exit."""
    before = tokenizer.padding_side
    tokenizer.padding_side = "right"
    try:
        yield
    finally:
        tokenizer.padding_side = before


def edited_weights(method: HostMethod, model: Any, hparams: Any) -> dict[str, Tensor]:
    """The parameters that ``method`` edits, by name, in the order of its loop.

    Raises:
        HostError: a name is none of the model's, or of a weight that is offloaded.
        ConfigError: no layer, or one that is named twice.
    """
    known = dict(model.named_parameters())
    names = method.weight_names(hparams)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"layers is {hparams.layers}: name at least one layer, and none twice")
    for name in names:
        if name not in known:
            raise HostError(f"the model has no weight {name}: check layers and module templates")
    found = {name: known[name] for name in names}
    refuse_offloaded(found.items())
    return found


def apply_projected(
    method: HostMethod,
    apply: Callable[..., Any],
    projectors: Mapping[str, Projector],
    closed_form: ClosedForm | None,
    call: tuple[Any, Any, Any, Any],
    options: Mapping[str, Any],
) -> Any:
    """Run the host's ``apply`` with every update projected; all weights change, or none.

    Args:
        method: the host's method.
        apply: its apply function.
        projectors: one per edited weight.
        closed_form: AlphaEdit's, in ``solve`` mode.
        call: model, tokenizer, requests and hparams.
        options: the other arguments of ``apply``.

    Returns:
        What ``apply`` returns: the model and the copy of its weights.
    """
    model, tokenizer, requests, hparams = call
    module, weights = method.load(), edited_weights(method, model, hparams)
    modules = {name: model.get_submodule(name.rpartition(".")[0]) for name in weights}
    transposed = {name: isinstance(found, Conv1D) for name, found in modules.items()}
    gate = Gate(
        list(weights),
        transposed,
        projectors,
        method.rank_one,
        closed_form.update if closed_form else None,
    )

    def oriented(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: w.T if transposed[name] else w for name, w in stored.items()}

    with unharmed(weights) as before, padding_right(tokenizer):
        if closed_form is not None:
            for name, weight in oriented(before).items():
                closed_form.histories[name].rewind(weight)
        with replaced(module, {GATE: gate, **(closed_form.listen() if closed_form else {})}):
            result = apply(model, tokenizer, requests, hparams, **options)
        gate.check()
        for name, weight in weights.items():
            if not torch.isfinite(weight).all():
                raise NumericalError(
                    f"{name} overflows {weight.dtype} when edited: no weight was changed; "
                    "edit in bfloat16 or float32"
                )
        if closed_form is not None:
            closed_form.remember(oriented(before), oriented(weights))
    return result
