"""Files that can be trusted: safetensors, written whole or not at all, checksums in them."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, first_line

FACTS = "alphaedit_plugin"  # the metadata: content, checksums of the tensors, and its own
# What a file that is not ours can raise; deeply nested JSON exhausts the stack.
UNREADABLE = (
    SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError,
)  # fmt: skip


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
    placed = _placed(tensors)
    checksums = {name: checksum(tensor) for name, tensor in placed.items()}
    seal = _checksum_of_text(json.dumps(content))
    facts = json.dumps({"content": content, "sha256": checksums, "seal": seal})
    metadata = {FACTS: facts}  # one entry only: of several, safetensors shuffles the order
    with replacing(path) as unfinished:
        save_file(placed, unfinished, metadata)


def _placed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, in order, and none sharing its memory with another: safetensors asks for that."""
    placed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        taken = {other.untyped_storage().data_ptr() for other in placed.values()}
        placed[name] = own.clone() if own.untyped_storage().data_ptr() in taken else own
    return placed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write instead of ``path``, which it replaces once it is written and on disk.

    Raises:
        ConfigError: it cannot be written; ``path`` is then as it was.
    """
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        rights = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(rights)  # of safetensors' files their owner alone would have any
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        unfinished.replace(path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be written: {_reason(error)}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Without it a power cut may take the file's new name, though not what is in it."""
    with suppress(OSError):  # where a folder cannot be opened, as on Windows
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before hours are spent on what is to go in it.

    Raises:
        ConfigError: it is a folder, or in a folder that cannot be made or written to.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: name a file in it")
        probe = path.with_name(f"{path.name}.{secrets.token_hex(4)}.probe")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {_reason(error)}") from None


def require_replaceable(path: Path, what: str, fits: Callable[[Mapping[str, Any]], bool]) -> None:
    """As `require_writable`; and refuse a file that is there, unless it is one of the same kind.

    Args:
        path: where one is to be written.
        what: it is, for the message: ``"patch"``.
        fits: whether the content of a file of `write_artefact` is such a one's.

    Raises:
        ConfigError: something else is there, which would be lost.
    """
    require_writable(path)
    if not path.exists():
        return
    try:
        _, content = read_artefact(path, wanted=lambda _: False)
        alike = fits(content)
    except (FileNotFoundError, DamagedFile):  # the former: there, but no plain file
        alike = False
    if not alike:
        raise ConfigError(
            f"{path} is there, and is no {what}: it is not overwritten; name another file"
        )


def is_file(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        ConfigError: nobody may tell, as its folder is closed, or its name is impossible.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {_reason(error)}") from None


@dataclass(frozen=True)
class Claim:
    """What a file says a tensor is, before any of it is read.

    Attributes:
        dtype: as safetensors calls it: ``"F32"``, ``"U8"``.
        shape: its sizes.
    """

    dtype: str
    shape: tuple[int, ...]


Check = Callable[[dict[str, Any], Mapping[str, Claim]], None]


def read_artefact(
    path: Path,
    wanted: Callable[[str], bool] = lambda name: True,
    check: Check = lambda content, claims: None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_artefact` wrote.

    Args:
        path: the file.
        wanted: which tensors to read, by name.
        check: is given the content and what all tensors claim to be, before memory is taken for
            them; what it raises is passed on.

    Returns:
        The tensors on the CPU, and the content.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it cannot be reached.
        DamagedFile: see there.
    """
    if not is_file(path):
        raise FileNotFoundError(path)
    try:
        file = safe_open(path, framework="pt")
        content, checksums = _facts(path, file)
        claims = {name: _claim(file, name) for name in file.keys()}  # noqa: SIM118
    except UNREADABLE as error:
        raise _damaged(path, error) from None
    check(content, claims)
    try:
        # In memory of torch's own: a file's is aligned otherwise, and sums may differ with that.
        tensors = {name: file.get_tensor(name).clone() for name in claims if wanted(name)}
    except UNREADABLE as error:
        raise _damaged(path, error) from None
    for name, tensor in tensors.items():
        if checksums.get(name) != checksum(tensor):
            raise DamagedFile(f"{path} is damaged: {name} does not match its checksum")
    return tensors, content


def _damaged(path: Path, error: Exception) -> DamagedFile:
    reason = first_line(error)
    return DamagedFile(f"{path} is damaged, or no file of alphaedit_plugin's: {reason}")


def _facts(path: Path, file: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The content and the checksums of an open file."""
    facts = json.loads((file.metadata() or {})[FACTS])
    content, checksums, seal = facts["content"], dict(facts["sha256"]), facts["seal"]
    if seal != _checksum_of_text(json.dumps(content)):
        raise DamagedFile(f"{path} is damaged: what it says of itself was altered")
    return content, checksums


def _claim(file: Any, name: str) -> Claim:
    place = file.get_slice(name)
    return Claim(place.get_dtype(), tuple(place.get_shape()))


def checksum(tensor: Tensor) -> str:
    """A hash of a tensor's shape, dtype and bytes; it may lie on any device."""
    placed = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(placed.shape)}:{placed.dtype}".encode())
    digest.update(placed.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checksums(weights: Mapping[int, Tensor]) -> dict[int, str]:
    """Per layer a hash of a weight's bytes."""
    return {layer: checksum(weight) for layer, weight in weights.items()}


def _reason(error: Exception) -> str:
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return "what should be its folder is a file"
    return getattr(error, "strerror", None) or str(error)


def _checksum_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
