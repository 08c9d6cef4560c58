"""Parameters of a model that accelerate has spread over devices or offloaded.

Between forward passes an offloaded parameter is on the ``meta`` device, and the weights map of a
hook on its module has the value. That tensor, not a copy on a device, is the weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alphaedit_plugin.common.errors import ModelError

META = torch.device("meta")


def execution_device(model: nn.Module, name: str) -> torch.device:
    """The device of the parameter ``name`` while its module runs."""
    for module, _ in _path(model, name):
        for hook in _hooks(module):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return model.get_parameter(name).device


def stored(model: nn.Module, name: str) -> Tensor:
    """The value of the parameter ``name``, to read or to change in place.

    A value on disk is read into main memory and stays there for the model's next forward pass; the
    files, which may be the downloaded checkpoint, are never written.

    Raises:
        ModelError: the parameter is on the meta device without a value.
    """
    parameter = model.get_parameter(name).detach()
    offloaded = _offloaded(model, name)
    if offloaded is None:
        if parameter.device == META:
            raise ModelError(
                f"{name} has no value (it is on the meta device): load the model with "
                "from_pretrained, or offload it with accelerate"
            )
        return parameter
    weights, key = offloaded
    memory = getattr(weights, "state_dict", weights)
    if key not in memory:
        memory[key] = weights[key].detach().to("cpu", copy=True)
    return memory[key].detach()


def value_of(model: nn.Module, name: str) -> Tensor:
    """As `stored`, but read-only: a value on disk is not cached in memory."""
    offloaded = _offloaded(model, name)
    if offloaded is None:
        return stored(model, name)
    weights, key = offloaded
    return weights[key].detach()


def settle(model: nn.Module) -> None:
    """Offload weights again that a forward pass left on a device because it ended early."""
    for module in model.modules():
        for hook in _hooks(module):
            if getattr(hook, "offload", False) and _loaded(module, hook):
                hook.post_forward(module, None)


def _loaded(module: nn.Module, hook: Any) -> bool:
    parameters = module.parameters(recurse=hook.place_submodules)
    return any(parameter.device != META for parameter in parameters)


def _hooks(module: nn.Module) -> list[Any]:
    """Accelerate's hooks on ``module`` itself."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def _offloaded(model: nn.Module, name: str) -> tuple[Any, str] | None:
    """The mapping that holds an offloaded parameter, and its key there.

    The hook is on the parameter's module, or on a module above that loads all its submodules.
    """
    for module, below in _path(model, name):
        for hook in _hooks(module):
            if getattr(hook, "offload", False) and ("." not in below or hook.place_submodules):
                return _unprefixed(hook.weights_map, below)
    return None


def _path(model: nn.Module, name: str) -> Iterator[tuple[nn.Module, str]]:
    """The modules that contain a parameter, innermost first, and its name in each."""
    parts = name.split(".")
    for depth in reversed(range(len(parts))):
        yield model.get_submodule(".".join(parts[:depth])), ".".join(parts[depth:])


def _unprefixed(weights: Mapping[str, Tensor], key: str) -> tuple[Any, str]:
    """The shared mapping inside accelerate's ``PrefixedDataset``."""
    mapping: Any = weights
    while hasattr(mapping, "prefix"):
        mapping, key = mapping.dataset, f"{mapping.prefix}{key}"
    return mapping, key
