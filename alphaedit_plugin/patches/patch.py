"""An edit patch: everything a session did to a model, in one file of safetensors.

A patch may come from anybody. Nothing in it is executed or used as a path, and before memory is
taken for any of its tensors they are compared with what the model's own weights allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError, PatchError, RequestError, first_line
from alphaedit_plugin.common.files import (
    Claim,
    DamagedFile,
    is_file,
    read_artefact,
    require_replaceable,
    write_artefact,
)
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches import reading
from alphaedit_plugin.patches.header import FINGERPRINT, SAMPLE, Header, check_claims
from alphaedit_plugin.patches.record import Record, pack, unpack

KIND = "patch"
SMALL = 2**30  # bytes; a larger patch must at least be smaller than its model
# What content of another form raises while it is read.
MALFORMED = (
    KeyError, ValueError, TypeError, AttributeError, OverflowError, RequestError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True)
class Patch:
    """A patch in memory.

    Attributes:
        header: the model it is for.
        entries: what was done, in order.
        after: per layer a checksum of the edited weight, in ``header.dtype``.
        metrics: what the run measured, by edit id.
    """

    header: Header
    entries: tuple[Entry, ...]
    after: Mapping[int, str]
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def delta(self, layer: int, entries: Sequence[Entry] | None = None) -> Delta:
        """The sum of all that is added to a layer, ``(d_out, d_in)``, factored where it pays.

        Args:
            layer: its number.
            entries: some of the patch's; all without.
        """
        chosen = self.entries if entries is None else entries
        writes = [write for entry in chosen for write in entry.writes]
        rows, columns = self.header.places[layer].shape
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
    tensors: dict[str, Tensor] = dict(patch.header.tensors())
    records = []
    for number, entry in enumerate(patch.entries):
        record, own = pack(entry, _prefix(number), keys)
        records.append(record)
        tensors |= own
    content = {
        "kind": KIND,
        "header": patch.header.content(),
        "entries": records,
        "after": dict(patch.after),
        "metrics": dict(patch.metrics),
    }
    write_artefact(path, tensors, content)


def require_place(path: Path) -> None:
    """Refuse a place where no patch can be written, or where something else is.

    Raises:
        ConfigError: see `require_replaceable`; an earlier patch may be replaced.
    """
    require_replaceable(path, KIND, lambda content: content.get("kind") == KIND)


def read_patch(path: Path, lm: EditableModel) -> Patch:
    """Read a patch file, checking all that can be checked before it is applied.

    Args:
        path: of `save_patch`.
        lm: the model to apply it to. Whether it is the one the patch was made for is another
            question: see `Header.check_model`.

    Raises:
        PatchError: the file is missing, damaged or malformed, or its layers, modules or shapes
            are not those of ``lm``.
    """
    with readable(path, f"no patch at {path}: alphaedit edit patch={path} makes one"):
        check_size(path, lm)
        tensors, content = read_artefact(path, check=partial(_check, lm))
        header = Header.parse(content["header"], tensors)
        entries = tuple(
            record.complete(tensors, _prefix(number), header.places)
            for number, record in enumerate(_records(content))
        )
        after, metrics = reading.labels(content["after"]), reading.mapping(content["metrics"])
        return Patch(header, entries, after, metrics)


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
        raise PatchError(f"{path} does not fit: {error}") from None
    except MALFORMED as error:
        raise PatchError(f"{path} is malformed: {first_line(error)}") from None


def check_size(path: Path, lm: EditableModel) -> None:
    """Refuse a file that claims more than edits can need, whatever is in it.

    Raises:
        PatchError: so it does.
        FileNotFoundError: there is none.
    """
    if not is_file(path):
        raise FileNotFoundError(path)
    size = path.stat().st_size
    if size > max(SMALL, bytes_of(lm)):
        raise PatchError(f"its {size / 2**30:.0f} GiB are more than the model itself has")


def bytes_of(lm: EditableModel) -> int:
    """Of all parameters, as a full checkpoint holds them."""
    return sum(p.numel() * p.element_size() for p in lm.model.parameters())


def _check(lm: EditableModel, content: dict[str, Any], claims: Mapping[str, Claim]) -> None:
    """Compare what a patch says with the model, before any tensor is read."""
    if content["kind"] != KIND:
        raise ValueError(f"its kind is {reading.label(content['kind'])!r}, not {KIND!r}")
    check_claims(claims)
    header = Header.parse(content["header"], {})
    header.check_places(lm)
    expected = {FINGERPRINT, SAMPLE}
    records = _records(content)
    for number, record in enumerate(records):
        record.check(claims, _prefix(number), header.places)
        expected |= record.names(_prefix(number))
    if expected != set(claims):
        raise ValueError(f"it holds {len(set(claims) - expected)} tensors that belong to no edit")
    check_names([record.entry for record in records])


def check_names(entries: Sequence[Entry]) -> None:
    """Refuse entries or edits of one name: one could not be told from the other.

    Raises:
        ValueError: there are some.
    """
    names = [name for entry in entries for name in (entry.name, *entry.ids)]
    if len(set(names)) != len(names):
        raise ValueError("two of its edits have one name")


def _records(content: Mapping[str, Any]) -> list[Record]:
    return [unpack(reading.mapping(row)) for row in reading.sequence(content["entries"])]


def _prefix(number: int) -> str:
    return f"{number}/"
