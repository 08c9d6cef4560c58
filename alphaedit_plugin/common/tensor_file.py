"""Tensors in a safetensors file, and beside them, as JSON, what they are.

safetensors refuses truncated files, and runs nothing of what it reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, first_line
from alphaedit_plugin.common.files import is_file, replacing, require_writable

METADATA = "alphaedit_plugin"  # one entry only: of several, safetensors shuffles the order
DTYPES = {torch.float32: "F32", torch.uint8: "U8"}  # as safetensors calls those that are checked
# What a file that is not ours can raise; deeply nested JSON exhausts the stack.
UNREADABLE = (
    SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError,
)  # fmt: skip


class DamagedFile(AlphaEditError):
    """A file that is truncated, or of another kind."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write tensors and what they are.

    Args:
        path: what is there stays until the new file is complete, and is then replaced.
        tensors: on any device; they may share memory.
        content: JSON.

    Raises:
        ConfigError: the file cannot be written, e.g. for want of space.
    """
    placed: dict[str, Tensor] = {}
    storages = set()  # safetensors refuses tensors that share one
    for name, tensor in tensors.items():
        ours = tensor.detach().cpu().contiguous()
        placed[name] = ours.clone() if ours.untyped_storage().data_ptr() in storages else ours
        storages.add(placed[name].untyped_storage().data_ptr())
    with replacing(path) as unfinished:
        save_file(placed, unfinished, {METADATA: json.dumps(content)})


class TensorFile:
    """A file of `write_tensors`, its tensors still unread.

    Args:
        path: of the file.
        mapped: leave tensors in the file, which the system reads as they are used and drops from
            memory as it needs that. What is computed from them is to start from a copy: they are
            aligned as the file is, and sums may round so.

    Attributes:
        path: of the file.
        content: what was written beside the tensors.
        names: of the tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it cannot be reached.
        DamagedFile: it is truncated, or of another kind.
    """

    def __init__(self, path: Path, *, mapped: bool = False) -> None:
        if not is_file(path):
            raise FileNotFoundError(path)
        self.path, self._mapped = path, mapped
        with self._reading():
            self._file = safe_open(path, framework="pt")
            self.content: dict[str, Any] = json.loads((self._file.metadata() or {})[METADATA])
            if not isinstance(self.content, dict):
                raise TypeError("its content is not an object")
            self.names = list(self._file.keys())

    def tensor(
        self,
        name: str,
        shape: tuple[int | None, ...] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """One tensor, on the CPU.

        Args:
            name: its name.
            shape: what it must be, ``None`` for a size that may be any; compared before memory is
                taken. Without a shape anything is read.
            dtype: likewise, where a shape is given.

        Raises:
            ValueError: it is of another shape or type.
            DamagedFile: it is missing, or cannot be read.
        """
        with self._reading():
            entry = self._file.get_slice(name)
        kind, sizes = entry.get_dtype(), tuple(entry.get_shape())
        if shape is not None:
            fits = len(sizes) == len(shape) and all(
                want in (None, size) for size, want in zip(sizes, shape, strict=True)
            )
            if kind != DTYPES[dtype] or not fits:
                expected = ", ".join("any" if size is None else str(size) for size in shape)
                raise ValueError(
                    f"tensor {name} is {kind} {list(sizes)}, not {DTYPES[dtype]} [{expected}]"
                )
        with self._reading():
            tensor: Tensor = self._file.get_tensor(name)
        return tensor if self._mapped else tensor.clone()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            raise DamagedFile(
                f"{self.path} is damaged, or not a file of alphaedit_plugin: {first_line(error)}"
            ) from None


def read_tensors(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The ``wanted`` tensors and the content of a file of `write_tensors`; see `TensorFile`."""
    file = TensorFile(path)
    return {name: file.tensor(name) for name in file.names if wanted(name)}, file.content


def checksum(tensor: Tensor) -> str:
    """A hash of a tensor's shape, dtype and bytes; it may lie on any device."""
    placed = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(placed.shape)}:{placed.dtype}".encode())
    digest.update(placed.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checksums(weights: Mapping[int, Tensor]) -> dict[int, str]:
    """`checksum` of each layer's weight."""
    return {layer: checksum(weight) for layer, weight in weights.items()}


def require_replaceable(path: Path, what: str, fits: Callable[[Mapping[str, Any]], bool]) -> None:
    """As `require_writable`; and refuse to overwrite a file of another kind.

    Args:
        path: where one is to be written.
        what: it is, for the message: ``"patch"``.
        fits: whether the content of a file of `write_tensors` is of the same kind.

    Raises:
        ConfigError: something else is there, which would be lost.
    """
    require_writable(path)
    if not path.exists():
        return
    try:
        alike = fits(TensorFile(path).content)
    except (FileNotFoundError, DamagedFile):  # the former: there, but not a plain file
        alike = False
    if not alike:
        raise ConfigError(f"{path} exists and is not a {what}: name another file")
