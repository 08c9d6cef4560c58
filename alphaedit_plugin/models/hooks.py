"""Hooks that read and change what flows through a model, and are gone on exit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alphaedit_plugin.models.offload import settle

logger = logging.getLogger(__name__)


class StopForward(Exception):
    """Raised by a hook to end the forward pass early."""


def hidden_of(output: Any) -> Tensor:
    """The hidden states in a block's output: a tensor, or a sequence that starts with one."""
    return output[0] if isinstance(output, (tuple, list)) else output


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """``output`` with its hidden states replaced by ``hidden``."""
    if isinstance(output, list):
        return [hidden, *output[1:]]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def per_token(hidden: Tensor, like: Tensor) -> Tensor:
    """``hidden`` as ``(n, length, d)`` for ``like (n, length)``; some MLPs flatten them."""
    return hidden.reshape(*like.shape, hidden.shape[-1])


@contextmanager
def hooked(*registrations: Callable[[], Any]) -> Iterator[None]:
    """Install hooks, each given as a function that registers it; removed on exit."""
    handles = []
    try:
        for register in registrations:
            handles.append(register())
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def head_only_at(model: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Run the language-model head, a model's widest matrix, at ``m`` positions only.

    The logits are then ``(1, m, vocabulary)``.
    """

    def gather(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        return (hidden[rows.to(hidden.device), columns.to(hidden.device)][None], *args[1:])

    head = model.get_output_embeddings()
    with hooked(lambda: head.register_forward_pre_hook(gather)):
        yield


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, full precision, and no parameter that requires a gradient.

    On exit everything is restored.
    """
    # By module and name: an offloaded parameter is another object after every forward pass.
    trainable = [
        (module, name)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        for module, name in trainable:
            module.get_parameter(name).requires_grad_(False)
        with full_precision():
            yield
    finally:
        settle(model)
        for module, name in trainable:
            module.get_parameter(name).requires_grad_(True)
        for module, mode in modes:
            module.training = mode


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch off a caller's ``torch.autocast``, which would round keys and deltas.

    Also a decorator: ``@full_precision()``.
    """
    with ExitStack() as stack:
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            yield
        finally:
            torch.clear_autocast_cache()  # it may hold a weight from before an edit


@contextmanager
def mixed_precision(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Matrix products of a float32 model in bfloat16, inside `inference`.

    Nothing changes, and a warning says so, where the processor has no such products. Gradients
    must be asked for by name (``backward(inputs=…)``): the parameters require them meanwhile.
    """
    if not _multiplies_bfloat16(device):
        logger.warning("%s has no bfloat16 products: searching in full precision", device)
        yield
        return
    # Autocast keeps the cast of a parameter only if it requires a gradient. One that is offloaded
    # is another at each pass.
    weights = [p for p in model.parameters() if not p.is_meta]
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        if device.type == "cpu":  # faster there than the fused kernel, on sentences
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        try:
            for weight in weights:
                weight.requires_grad_(True)
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(False)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # torch 2.11
        return False
    return any(has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name)
