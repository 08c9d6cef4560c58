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
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.common.errors import ConfigError, NumericalError
from alphaedit_plugin.easyedit.closed_form import ClosedForm
from alphaedit_plugin.easyedit.find_host import HostError
from alphaedit_plugin.easyedit.host import HostCall, HostMethod, refuse_offloaded
from alphaedit_plugin.easyedit.hparams import NullSpaceFlag
from alphaedit_plugin.easyedit.model_state import ModelState
from alphaedit_plugin.nullspace.projector import Projector

GATE = "upd_matrix_match_shape"


def apply_projected(
    state: ModelState,
    flag: NullSpaceFlag,
    method: HostMethod,
    apply: Callable[..., Any],
    call: HostCall,
) -> Any:
    """Run the host's ``apply`` with every update projected; all weights change, or none.

    Returns:
        What ``apply`` returns: the model and the copy of its weights.

    Raises:
        ConfigError: a setting or an option that cannot be combined with the flag.
        HostError: this version of the host works otherwise.
        NumericalError: an update or a weight is not finite.
    """
    solves = flag.solves(method.name, method.solves)
    # A target that is read from a file never passes through the functions we listen to.
    for option in ("copy", "cache_template") if solves else ("copy",):
        if call.options.get(option):
            raise ConfigError(f"null_space cannot be combined with {option}=: remove it")
    weights, module = edited_weights(method, call), method.load()
    projectors = state.projectors_of(flag, call, list(weights))
    owners = {name: call.model.get_submodule(name.rpartition(".")[0]) for name in weights}
    transposed = {name: isinstance(owner, Conv1D) for name, owner in owners.items()}
    gate = Gate(transposed, projectors, method.rank_one)
    closed_form = None
    if solves:
        closed_form = ClosedForm(module, projectors, flag.null_space_l2, state.histories)
        gate.update = closed_form.update

    def oriented(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: w.T if transposed[name] else w for name, w in stored.items()}

    # On the left, padding would move the subject.
    with unharmed(weights) as before, replaced(call.tokenizer, {"padding_side": "right"}):
        if closed_form is not None:
            for name, weight in oriented(before).items():
                state.histories[name].rewind(weight)
        with replaced(module, {GATE: gate, **(closed_form.listening() if closed_form else {})}):
            # EMMET empties its copy of the weights otherwise, and the host then restores nothing.
            options = {**call.options, "keep_original_weight": True}
            result = apply(call.model, call.tokenizer, call.requests, call.hparams, **options)
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


@dataclass
class Gate:
    """Replaces ``upd_matrix_match_shape`` during one call.

    Attributes:
        transposed: by edited weight, in the order of the loop: whether it is stored
            ``(d_in, d_out)``.
        projectors: by weight.
        rank_one: see `HostMethod.rank_one`; a square weight's shape cannot tell.
        update: what to write instead of the host's update, ``(d_out, d_in)``; ``None`` keeps it.
        written: what the loop wrote, as stored, by weight.
        calls: how often the host has called it.
    """

    transposed: Mapping[str, bool]
    projectors: Mapping[str, Projector]
    rank_one: bool
    update: Callable[[int], Tensor] | None = None
    written: dict[str, Tensor] = field(default_factory=dict)
    calls: int = 0

    def __call__(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """The update of the weight whose turn it is, projected, in its storage order."""
        names, number, self.calls = list(self.transposed), self.calls, self.calls + 1
        name = names[number % len(names)]
        if number >= len(names):
            return self.written[name]
        if self.update is not None:
            oriented = self.update(number).to(matrix.device)
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
        return stored

    def check(self) -> None:
        """Refuse a host whose layer loop no longer works as described above."""
        if self.calls != 2 * len(self.transposed):
            raise HostError(
                f"the host wrote {self.calls} updates where {2 * len(self.transposed)} were "
                "expected: this version of EasyEdit is not supported; no weight was changed"
            )


def edited_weights(method: HostMethod, call: HostCall) -> dict[str, Tensor]:
    """The parameters that ``method`` edits, by name, in the order of its loop.

    Raises:
        HostError: the model has no such weight, or it is offloaded.
        ConfigError: no layer, or one that is named twice.
    """
    parameters = dict(call.model.named_parameters())
    names = method.weight_names(call.hparams)
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"layers is {call.hparams.layers}: name at least one layer, and none twice"
        )
    for name in names:
        if name not in parameters:
            raise HostError(f"the model has no weight {name}: check layers and module templates")
    refuse_offloaded((name, parameters[name]) for name in names)
    return {name: parameters[name] for name in names}


@contextmanager
def replaced(owner: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Give a module or an object other attributes; as before on exit."""
    before = {name: getattr(owner, name) for name in values}
    vars(owner).update(values)
    try:
        yield
    finally:
        vars(owner).update(before)


@contextmanager
def unharmed(weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Restore the weights on an error: the host's layer loop leaves its writes in.

    Yields:
        A copy of the weights.
    """
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield before
    except BaseException:
        restore(weights, before)
        raise


def restore(weights: Mapping[Any, Tensor], before: Mapping[Any, Tensor]) -> None:
    """Copy earlier values into weights."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(before[name])
