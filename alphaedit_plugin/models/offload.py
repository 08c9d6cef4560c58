"""Where a model's tensors are, when accelerate has spread it over devices or offloaded parts.

An offloaded parameter is on the ``meta`` device between forward passes; what it holds is in the
map of weights of a hook on its module. That tensor, and no copy on a device, is the weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alphaedit_plugin.common.errors import ModelError

META = torch.device("meta")


def execution_device(model: nn.Module, name: str) -> torch.device:
    """Where the parameter ``name`` is while its module runs."""
    for module, _ in _path(model, name):
        for hook in _hooks(module):
            found = getattr(hook, "execution_device", None)
            if found is not None:
                return torch.device(found)
    return model.get_parameter(name).device


def stored(model: nn.Module, name: str) -> Tensor:
    """The tensor behind the parameter ``name``, to be read or changed in place.

    What accelerate left on disk is read into main memory and stays there, where the model's next
    forward pass finds it: the files, which may be the downloaded checkpoint, are never written.

    Raises:
        ModelError: the parameter is on the meta device, and nothing says what it holds.
    """
    parameter = model.get_parameter(name).detach()
    found = _offloaded(model, name)
    if found is None:
        if parameter.device == META:
            raise ModelError(
                f"{name} has no value (it is on the meta device): load the model with "
                "from_pretrained, or offload it with accelerate"
            )
        return parameter
    weights, key = found
    memory = getattr(weights, "state_dict", weights)
    if key not in memory:
        memory[key] = weights[key].detach().to("cpu", copy=True)
    return memory[key].detach()


def value_of(model: nn.Module, name: str) -> Tensor:
    """As `stored`, to be read only; what is on disk is not kept in memory."""
    found = _offloaded(model, name)
    return stored(model, name) if found is None else found[0][found[1]].detach()


def settle(model: nn.Module) -> None:
    """Send offloaded weights back that a forward pass, ended early, has left on a device."""
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
    """The mapping that holds an offloaded parameter, and its name there.

    The hook is on the parameter's own module, or on one above that loads all that it contains.
    """
    for module, below in _path(model, name):
        for hook in _hooks(module):
            if getattr(hook, "offload", False) and ("." not in below or hook.place_submodules):
                return _unprefixed(hook.weights_map, below)
    return None


def _path(model: nn.Module, name: str) -> Iterator[tuple[nn.Module, str]]:
    """The modules that contain a parameter, the nearest first, and its name in each."""
    parts = name.split(".")
    for depth in reversed(range(len(parts))):
        yield model.get_submodule(".".join(parts[:depth])), ".".join(parts[depth:])


def _unprefixed(weights: Mapping[str, Tensor], key: str) -> tuple[Any, str]:
    """Look through accelerate's ``PrefixedDataset`` to the mapping that is shared."""
    found: Any = weights
    while hasattr(found, "prefix"):
        found, key = found.dataset, f"{found.prefix}{key}"
    return found, key
