"""Looking inside a model while it runs, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alphaedit_plugin.models.offload import settle

if TYPE_CHECKING:
    from alphaedit_plugin.models.editable import EditableModel


class StopForward(Exception):
    """Raised by a hook once everything of interest has been seen; ends the forward pass early."""


def hidden_of(output: Any) -> Tensor:
    """The hidden states in a block's output, be it a tensor or a sequence that starts with one."""
    return output[0] if isinstance(output, (tuple, list)) else output


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """``output`` with its hidden states replaced by ``hidden``."""
    if isinstance(output, list):
        return [hidden, *output[1:]]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def per_token(hidden: Tensor, like: Tensor) -> Tensor:
    """``hidden`` as ``(n, length, d)`` for ``like (n, length)``: some MLPs put all rows in line."""
    return hidden.reshape(*like.shape, hidden.shape[-1])


@contextmanager
def hooked(*registrations: Callable[[], Any]) -> Iterator[None]:
    """Install hooks, given as thunks that register one each; gone on exit, also on error."""
    handles = []
    try:
        for register in registrations:
            handles.append(register())
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def head_only_at(lm: EditableModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Run the language-model head, a model's widest matrix, at the given places only.

    The model's logits then are ``(1, m, vocabulary)``, one row for each of the ``m`` places.
    """

    def gather(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        return (hidden[rows.to(hidden.device), columns.to(hidden.device)][None], *args[1:])

    head = lm.model.get_output_embeddings()
    with hooked(lambda: head.register_forward_pre_hook(gather)):
        yield


@contextmanager
def inference(lm: EditableModel) -> Iterator[None]:
    """Evaluation mode, the model's own precision, and no parameter asks for a gradient.

    Everything is put back as found on exit.
    """
    with evaluation(lm.model):
        yield


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """`inference` of a model whose layout is not known yet."""
    # By module and name: an offloaded parameter is another object after every forward pass.
    wanting = [
        (module, name)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        for module, name in wanting:
            module.get_parameter(name).requires_grad_(False)
        with full_precision():
            yield
    finally:
        settle(model)
        for module, name in wanting:
            module.get_parameter(name).requires_grad_(True)
        for module, mode in modes:
            module.training = mode


@contextmanager
def full_precision() -> Iterator[None]:
    """Take no part in a caller's ``torch.autocast``, which would round keys and deltas.

    Also a decorator: ``@full_precision()``.
    """
    with ExitStack() as stack:
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            yield
        finally:
            torch.clear_autocast_cache()  # which may hold a weight as it was before an edit
