"""Files that can be trusted: safetensors, written whole or not at all, checksums in them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alphaedit_plugin.errors import AlphaEditError, ConfigError

CONTENT, CHECKSUMS = "content", "sha256"


class DamagedFile(AlphaEditError):
    """A file that is truncated, altered, or of another kind."""


def write_artefact(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write tensors and what they are.

    Args:
        path: what was there stays until the new file is complete, and is then replaced.
        tensors: on any device.
        content: described in JSON.

    Raises:
        ConfigError: the file cannot be written, e.g. for want of space.
    """
    placed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checksums = {name: checksum(tensor) for name, tensor in placed.items()}
    metadata = {CONTENT: json.dumps(content), CHECKSUMS: json.dumps(checksums)}
    with replacing(path) as unfinished:
        save_file(placed, unfinished, metadata)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write instead of ``path``, which it replaces once it is written and on disk.

    Raises:
        ConfigError: it cannot be written; ``path`` is then as it was.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path} cannot be written: {reason}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def read_artefact(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_artefact` wrote.

    Args:
        path: the file.
        wanted: which tensors to read, by name.

    Returns:
        The tensors on the CPU, and the content.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: see there.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content, checksums = json.loads(metadata[CONTENT]), json.loads(metadata[CHECKSUMS])
            tensors = {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged, or no file of alphaedit_plugin's: {error}") from None
    for name, tensor in tensors.items():
        if checksums.get(name) != checksum(tensor):
            raise DamagedFile(f"{path} is damaged: {name} does not match its checksum")
    return tensors, content


def checksum(tensor: Tensor) -> str:
    """A hash of a tensor's shape, dtype and bytes; it may lie on any device."""
    placed = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(placed.shape)}:{placed.dtype}".encode())
    digest.update(placed.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
