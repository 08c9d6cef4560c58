"""A second device without a second device: CPU tensors that say they are elsewhere.

As on a real one, an operation on tensors of two devices fails, unless one is a CPU scalar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from alphaedit_plugin.models import editable as lm

ELSEWHERE = torch.device("lazy", 0)  # a type that needs no driver, and that autograd lets pass


class Elsewhere(Tensor):
    """A tensor on `ELSEWHERE`; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> Tensor:
        if held.device.type == "meta":  # accelerate makes a parameter of the class it found
            return torch.nn.Parameter(held, requires_grad)
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=ELSEWHERE, requires_grad=requires_grad,
        )  # fmt: skip
        made.held = held.held if isinstance(held, Elsewhere) else held.detach()
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchFunctionMode):
    """What works below where a dispatch mode looks: making tensors of lists, and the reverse."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") is not None:
            wanted = kwargs.pop("device")
            return func(*args, **kwargs).to(wanted)
        if func is Tensor.tolist:
            return _held(args[0]).tolist()
        return func(*args, **kwargs)


@contextmanager
def second_device() -> Iterator[None]:
    """Inside, `ELSEWHERE` can be named as a device, and its tensors count as plain ones."""
    with pytest.MonkeyPatch.context() as patch, _Dispatch(), _Factories():
        patch.setattr(lm, "PLAIN", (*lm.PLAIN, Elsewhere))
        yield


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, Tensor)]
    wanted = kwargs.get("device")
    device = torch.device(wanted) if wanted is not None else _common(func, tensors)
    if wanted is not None and torch.device(wanted).type == ELSEWHERE.type:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held_args, held_kwargs = tree_map(_held, (args, kwargs))
    result = func(*held_args, **held_kwargs)
    if func in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default) and wanted is None:
        device = args[0].device
    if _in_place(func):
        return args[0]
    if device.type != ELSEWHERE.type:
        return result
    return tree_map(lambda item: Elsewhere(item) if isinstance(item, Tensor) else item, result)


def _in_place(func: Any) -> bool:
    return bool(func._schema.name.endswith("_") and not func._schema.name.endswith("__"))


def _held(item: Any) -> Any:
    return item.held if isinstance(item, Elsewhere) else item


def _common(func: Any, tensors: Iterable[Tensor]) -> torch.device:
    tensors = list(tensors)
    moves = func in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
    found = {tensor.device.type for tensor in tensors if tensor.dim() > 0}
    # As CUDA does, a tensor elsewhere can be indexed by what is on the CPU.
    indexes = "index" in func._schema.name and tensors[0].device.type == ELSEWHERE.type
    if len(found) > 1 and not moves and not indexes:
        raise RuntimeError(f"{func} of tensors on two devices: {sorted(found)}")
    away = [tensor.device for tensor in tensors if tensor.device.type == ELSEWHERE.type]
    return away[0] if away else torch.device("cpu")
