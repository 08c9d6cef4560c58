"""An edit patch: everything a session did to a model, in one file.

A patch may come from anyone. Nothing in it is executed or used as a path, and its tensors are
compared with the model's own weights before memory is taken for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import PatchError, quoted
from alphaedit_plugin.common.tensor_file import require_replaceable
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.document import Document, check_names, readable, write_document
from alphaedit_plugin.patches.header import Header

KIND = "patch"
SMALL = 2**30  # bytes; a larger patch must at least be smaller than its model


@dataclass(frozen=True)
class Patch:
    """A patch in memory.

    Attributes:
        header: the model it is for.
        entries: what was done, in order.
        after: per layer a checksum of the edited weight, in ``header.dtype``.
        metrics: what the run measured, by edit id; JSON.
    """

    header: Header
    entries: tuple[Entry, ...]
    after: Mapping[int, str]
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def delta(self, layer: int, entries: Sequence[Entry] | None = None) -> Delta:
        """The sum of all that is added to a layer, ``(d_out, d_in)``, factored where it pays.

        Args:
            layer: its number.
            entries: some of the patch's; by default all.
        """
        chosen = self.entries if entries is None else entries
        writes = [write for entry in chosen for write in entry.writes]
        rows, columns = self.header.layers[layer].shape
        nothing = Delta(torch.zeros(rows, 0), torch.zeros(columns, 0))
        return Delta.joined([nothing, *(w.delta for w in writes if w.layer == layer)])


def write_patch(patch: Patch, path: Path, keys: bool = True) -> None:
    """Write a patch file.

    Args:
        patch: see `sessions.patch_of`.
        path: replaced once the new file is complete.
        keys: store the keys of its edits, too: editing then goes on exactly as in the run.

    Raises:
        ConfigError: the file cannot be written.
    """
    if not keys:
        patch = replace(patch, entries=tuple(replace(e, past_keys={}) for e in patch.entries))
    write_document(path, KIND, patch)


def require_place(path: Path) -> None:
    """Refuse a path where no patch can be written, or where something else is.

    Raises:
        ConfigError: see `require_replaceable`; an earlier patch may be replaced.
    """
    require_replaceable(path, KIND, lambda content: content.get("kind") == KIND)


def read_patch(path: Path, lm: EditableModel) -> Patch:
    """Read a patch file, checking all that can be checked before it is applied.

    Args:
        path: of `write_patch`.
        lm: the model to apply it to. Whether it is the one the patch was made for is another
            question: see `Header.check_model`.

    Raises:
        PatchError: the file is missing, damaged or malformed, or its layers, modules or shapes
            are not those of ``lm``.
    """
    with readable(path, f"no patch at {path}: alphaedit edit patch={path} makes one"):
        check_size(path, lm)
        document = Document(path)
        if document.kind != KIND:
            raise PatchError(f"it is not a patch, but of kind {quoted(document.kind)}")
        header = document.header()
        header.check_layers(lm)
        patch = document.read(Patch, header)
        check_names(patch.entries)
        return patch


def check_size(path: Path, lm: EditableModel) -> None:
    """Refuse a file that is larger than edits can be, unread.

    Raises:
        PatchError: it is.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size > max(SMALL, bytes_of(lm)):
        raise PatchError(f"its {size / 2**30:.0f} GiB are more than the model itself has")


def bytes_of(lm: EditableModel) -> int:
    """Of all parameters, as a full checkpoint holds them."""
    return sum(p.numel() * p.element_size() for p in lm.model.parameters())


def size_note(lm: EditableModel, patch: Path) -> str:
    """What a patch takes, beside what the whole model would."""
    size, whole = patch.stat().st_size, bytes_of(lm)
    return f"{patch}: {size / 2**20:.2f} MiB, {size / whole:.2%} of a full checkpoint"
