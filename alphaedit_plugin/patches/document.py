"""What a file of edits says: one dataclass as JSON, with its tensors beside it in safetensors.

The JSON follows the dataclass, field by field; where it has a tensor, the JSON has its name. A
dense delta is kept as the values that are not zero where that is smaller, as for RECT's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from cattrs import Converter
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError, PatchError, quoted
from alphaedit_plugin.common.serialize import converter, expect
from alphaedit_plugin.common.tensor_file import DamagedFile, TensorFile, write_tensors
from alphaedit_plugin.editing.entry import Entry, Write
from alphaedit_plugin.patches.header import Header, Layer

FORMAT = 2  # raise it when older files can no longer be read

T = TypeVar("T")


def write_document(path: Path, kind: str, document: object) -> None:
    """Write a dataclass, whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    content = _writer(tensors).unstructure(document)
    write_tensors(path, tensors, {"format": FORMAT, "kind": kind, **content})


class Document:
    """A file of `write_document`, read part by part.

    Args:
        path: of the file.
        mapped: see `TensorFile`.

    Attributes:
        kind: what it was written as.

    Raises:
        PatchError: its format is another one.
        FileNotFoundError, ConfigError, DamagedFile: see `TensorFile`.
    """

    def __init__(self, path: Path, *, mapped: bool = False) -> None:
        self._file = TensorFile(path, mapped=mapped)
        self._content = dict(self._file.content)
        if self._content.pop("format", None) != FORMAT:
            raise PatchError(
                f"it is not of format {FORMAT}, which this version reads: if an older or newer "
                "version of alphaedit-plugin wrote it, make it again"
            )
        self.kind: object = self._content.pop("kind", None)

    def header(self) -> Header:
        """The header of a patch, or of a journal, whose first file is nothing else.

        Raises:
            ValueError: it is malformed.
        """
        content = self._content.get("header", self._content)
        return _reader(self._file, {}).structure(content, Header)

    def read(self, kind: type[T], header: Header) -> T:
        """All of it; tensors are compared with the header's layers before memory is taken for them.

        Raises:
            ValueError: something is malformed.
        """
        return _reader(self._file, header.layers).structure(self._content, kind)


@contextmanager
def readable(path: Path, missing: str) -> Iterator[None]:
    """Say in one line what is wrong with a file that is read inside.

    Raises:
        PatchError: ``missing`` where it is not there; damaged, malformed, or not of this model.
    """
    try:
        yield
    except FileNotFoundError:
        raise PatchError(missing) from None
    except (DamagedFile, ConfigError) as error:
        raise PatchError(str(error)) from None
    except PatchError as error:
        raise PatchError(f"{path} is refused: {error}") from None
    except ValueError as error:
        raise PatchError(f"{path} is malformed: {error}") from None


def check_names(entries: Sequence[Entry]) -> None:
    """Refuse entries or edits that share a name: they could not be told apart.

    Raises:
        ValueError: there are some.
    """
    names = [name for entry in entries for name in (entry.name, *entry.ids)]
    if len(set(names)) != len(names):
        raise ValueError("two of its edits have one name")


def _writer(tensors: dict[str, Tensor]) -> Converter:
    """Gives a dataclass as JSON, and puts its tensors into ``tensors``."""
    made = converter()

    def store(tensor: Tensor) -> str:
        name = str(len(tensors))
        tensors[name] = tensor
        return name

    def write_delta(write: Write) -> dict[str, Any]:
        parts = _parts(write.delta)
        return {"layer": write.layer} | {part: store(tensor) for part, tensor in parts.items()}

    made.register_unstructure_hook(Tensor, lambda tensor: store(tensor.float()))
    made.register_unstructure_hook(Write, write_delta)
    return made


def _parts(delta: Delta) -> dict[str, Tensor]:
    """A delta in the fewest bytes that give back each of its bits."""
    if delta.right is not None:
        return {"left": delta.left.float(), "right": delta.right.float()}
    dense = delta.left.float().cpu()
    mask = dense != 0
    if 4 * int(mask.sum()) + dense.numel() / 8 >= 4 * dense.numel():
        return {"dense": dense}
    # A bit per entry takes less than an index per value, from one value in 32 entries on.
    return {"mask": torch.from_numpy(np.packbits(mask.flatten().numpy())), "values": dense[mask]}


def _reader(file: TensorFile, layers: Mapping[int, Layer]) -> Converter:
    """Reads a dataclass from JSON, and its tensors from ``file``."""
    made = converter()

    def layer_of(number: int) -> Layer:
        if number not in layers:
            raise ValueError(f"it edits layer {number}, which its header does not name")
        return layers[number]

    def tensor(name: Any, *shape: int | None, dtype: torch.dtype = torch.float32) -> Tensor:
        loaded = file.tensor(expect(name, str, "a tensor's name"), shape, dtype)
        if not torch.isfinite(loaded).all():
            raise ValueError(f"tensor {name} holds numbers that are not finite")
        return loaded

    def read_write(value: Any, _: Any) -> Write:
        row = dict(expect(value, dict, "a write"))
        number = made.structure(row.pop("layer", None), int)
        rows, columns = layer_of(number).shape
        if row.keys() == {"left", "right"}:
            left = tensor(row["left"], rows, None)
            return Write(number, Delta(left, tensor(row["right"], columns, left.shape[1])))
        if row.keys() == {"dense"}:
            return Write(number, Delta(tensor(row["dense"], rows, columns)))
        if row.keys() == {"mask", "values"}:
            size = rows * columns
            bits = tensor(row["mask"], (size + 7) // 8, dtype=torch.uint8).numpy()
            mask = torch.from_numpy(np.unpackbits(bits, count=size)).bool().view(rows, columns)
            dense = torch.zeros(rows, columns)
            dense[mask] = tensor(row["values"], int(mask.sum()))
            return Write(number, Delta(dense))
        raise ValueError(f"a write in the parts {quoted(list(row))}: they are not those of a delta")

    read_names = made.get_structure_hook(Mapping[int, str])

    def read_keys(value: Any, _: Any) -> dict[int, Tensor]:
        names: dict[int, str] = read_names(value, Mapping[int, str])
        return {n: tensor(name, layer_of(n).shape[1], None) for n, name in names.items()}

    made.register_structure_hook(Tensor, lambda name, _: tensor(name, None))
    made.register_structure_hook(Write, read_write)
    made.register_structure_hook_func(lambda kind: kind == Mapping[int, Tensor], read_keys)
    read_entry = made.get_structure_hook(Entry)

    def read_whole_entry(value: Any, kind: Any) -> Entry:
        entry: Entry = read_entry(value, kind)
        count, lengths = len(entry.requests), [k.shape[1] for k in entry.past_keys.values()]
        lengths += [len(value.get("ids", ())), len(entry.searches) or count]
        if set(lengths) - {count}:
            raise ValueError(f"{quoted(entry.name)} has ids, searches or keys of other edits")
        return entry

    made.register_structure_hook(Entry, read_whole_entry)
    return made
