"""An entry on disk: JSON for what it says, tensors for its deltas and keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Any, get_args, get_origin

import numpy as np
import torch
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.files import Claim
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.editing.entry import Entry, Search, Write
from alphaedit_plugin.patches import reading
from alphaedit_plugin.patches.header import Place

FACTORED, DENSE, SPARSE = "factored", "dense", "sparse"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Record:
    """An entry read from a file's metadata, its tensors still unread.

    Attributes:
        entry: without writes and keys.
        forms: layer and form of each write.
        keys: the layers whose keys are kept.
    """

    entry: Entry
    forms: tuple[tuple[int, str], ...]
    keys: tuple[int, ...]

    def check(self, claims: Mapping[str, Claim], prefix: str, places: Mapping[int, Place]) -> None:
        """Compare what the tensors claim to be with what they must be, before any is read.

        Raises:
            ValueError: a tensor is missing, or of another type or shape.
        """
        for number, (layer, form) in enumerate(self.forms):
            _check_write(claims, f"{prefix}{number}.", form, _known(places, layer).shape)
        for layer in self.keys:
            expected = (_known(places, layer).shape[1], len(self.entry.requests))
            _check_claim(claims, f"{prefix}keys.{layer}", "F32", expected)

    def names(self, prefix: str) -> set[str]:
        """Of all its tensors."""
        parts = {FACTORED: ("left", "right"), DENSE: ("dense",), SPARSE: ("mask", "values")}
        writes = enumerate(form for _, form in self.forms)
        return {f"{prefix}{number}.{part}" for number, form in writes for part in parts[form]} | {
            f"{prefix}keys.{layer}" for layer in self.keys
        }

    def complete(
        self, tensors: Mapping[str, Tensor], prefix: str, places: Mapping[int, Place]
    ) -> Entry:
        """The entry with its writes and keys.

        Raises:
            ValueError: a number is not finite, or a sparse delta is inconsistent.
        """
        writes = tuple(
            Write(layer, _unpacked(tensors, f"{prefix}{number}.", form, places[layer].shape))
            for number, (layer, form) in enumerate(self.forms)
        )
        keys = {layer: tensors[f"{prefix}keys.{layer}"] for layer in self.keys}
        finite = all(write.delta.is_finite for write in writes)
        if not finite or not all(bool(torch.isfinite(block).all()) for block in keys.values()):
            raise ValueError(f"{self.entry.name} holds numbers that are not finite")
        fields = {name: getattr(self.entry, name) for name in Entry.__dataclass_fields__}
        return Entry(**fields | {"writes": writes, "past_keys": keys})


def pack(entry: Entry, prefix: str = "", keys: bool = True) -> tuple[dict[str, Any], Tensors]:
    """What `unpack` and `Record.complete` read.

    Args:
        entry: a session's.
        prefix: of the tensors' names.
        keys: store the keys of the batch, which go on editing exactly takes.
    """
    tensors: Tensors = {}
    forms = []
    for number, write in enumerate(entry.writes):
        form, parts = _packed(write.delta)
        forms.append({"layer": write.layer, "form": form})
        tensors |= {f"{prefix}{number}.{name}": part for name, part in parts.items()}
    kept = entry.past_keys if keys else {}
    tensors |= {f"{prefix}keys.{layer}": block.float() for layer, block in kept.items()}
    content = {
        "name": entry.name,
        "time": entry.time,
        "version": entry.version,
        "method": dict(entry.method),
        "requests": [
            {"id": own, "request": converter().unstructure(request)}
            for own, request in zip(entry.ids, entry.requests, strict=True)
        ],
        "searches": [[one.loss, one.probability] for one in entry.searches],
        "failed": converter().unstructure(list(entry.failed)),
        "writes": forms,
        "keys": list(kept),
        "before": dict(entry.before),
        "after": dict(entry.after),
    }
    return content, tensors


def unpack(content: Mapping[str, Any]) -> Record:
    """Read what `pack` said of an entry.

    Raises:
        ValueError: something is of another type.
        KeyError: something is missing.
        RequestError: a request that cannot be one.
    """
    rows = [reading.mapping(row) for row in reading.sequence(content["requests"])]
    writes = [reading.mapping(write) for write in reading.sequence(content["writes"])]
    forms = tuple((reading.whole(w["layer"]), reading.label(w["form"])) for w in writes)
    searches = [reading.sequence(row) for row in reading.sequence(content.get("searches", []))]
    if len(searches) not in (0, len(rows)):
        raise ValueError(f"it has {len(searches)} searches for {len(rows)} requests")
    unknown = [form for _, form in forms if form not in (FACTORED, DENSE, SPARSE)]
    if unknown:
        raise ValueError(f"it has a delta in the form {unknown[0]!r}: update alphaedit-plugin")
    entry = Entry(
        requests=tuple(converter().structure(row["request"], Request) for row in rows),
        writes=(),
        failed=converter().structure(content["failed"], tuple[Request, ...]),
        searches=tuple(Search(*map(reading.number, row)) for row in searches),
        name=reading.label(content["name"]),
        ids=tuple(reading.label(row["id"]) for row in rows),
        method=reading.mapping(content["method"]),
        time=reading.label(content["time"]),
        version=reading.label(content["version"]),
        before=reading.labels(content["before"]),
        after=reading.labels(content["after"]),
    )
    return Record(entry, forms, tuple(reading.whole(n) for n in reading.sequence(content["keys"])))


@cache
def converter() -> Converter:
    """Between requests, with their probes, and JSON: every field of both, read as what it is.

    A field that is not there has its default. Reading raises `ValueError` for a value of another
    type, and for a field that is missing or not known; and see `Request` and `Probe`.
    """
    found = Converter(unstruct_collection_overrides={tuple: list})

    def read_tuple(value: Any, kind: Any) -> tuple[Any, ...]:
        return tuple(found.structure(item, get_args(kind)[0]) for item in reading.sequence(value))

    def read_mapping(value: Any, kind: Any) -> dict[str, Any]:
        _, inner = get_args(kind)
        return {name: found.structure(item, inner) for name, item in reading.mapping(value).items()}

    found.register_structure_hook(str, lambda value, _: reading.text(value))
    found.register_structure_hook_func(_is(tuple), read_tuple)
    found.register_structure_hook_func(_is(Mapping), read_mapping)
    for kind in (Probe, Request):
        read = make_dict_structure_fn(kind, found, _cattrs_detailed_validation=False)
        found.register_structure_hook(kind, partial(_read_fields, read))
    return found


def _is(origin: Any) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) is origin


def _read_fields(read: Callable[[Any, Any], Any], value: Any, kind: Any) -> Any:
    row, name = reading.mapping(value), kind.__name__.lower()
    unknown = sorted(row.keys() - {field.name for field in fields(kind)})
    if unknown:
        raise ValueError(f"it has a {name} with {unknown[0][:40]!r}: update alphaedit-plugin")
    try:
        return read(row, kind)
    except KeyError as error:
        raise ValueError(f"it has a {name} without {error}") from None


def _packed(delta: Delta) -> tuple[str, Tensors]:
    """A delta in the fewest bytes that give back each of its bits."""
    if delta.right is not None:
        return FACTORED, {"left": delta.left.float(), "right": delta.right.float()}
    dense = delta.left.float().cpu()
    mask = dense != 0
    count = int(mask.sum())
    if 4 * count + dense.numel() / 8 >= 4 * dense.numel():
        return DENSE, {"dense": dense}
    # A bit for each entry takes less than an index for each that is kept, from one in 32 on.
    bits = np.packbits(mask.flatten().numpy())
    return SPARSE, {"mask": torch.from_numpy(bits), "values": dense[mask]}


def _unpacked(
    tensors: Mapping[str, Tensor], prefix: str, form: str, shape: tuple[int, int]
) -> Delta:
    if form == FACTORED:
        return Delta(tensors[f"{prefix}left"], tensors[f"{prefix}right"])
    if form == DENSE:
        return Delta(tensors[f"{prefix}dense"])
    values, size = tensors[f"{prefix}values"], shape[0] * shape[1]
    bits = np.unpackbits(tensors[f"{prefix}mask"].numpy(), count=size)
    mask = torch.from_numpy(bits).bool().view(shape)
    if int(mask.sum()) != len(values):
        raise ValueError(f"{prefix}mask does not have one bit for each value")
    dense = torch.zeros(shape)
    dense[mask] = values
    return Delta(dense)


def _known(places: Mapping[int, Place], layer: int) -> Place:
    if layer not in places:
        raise ValueError(f"it writes to layer {layer}, which it does not name")
    return places[layer]


def _check_write(
    claims: Mapping[str, Claim], prefix: str, form: str, shape: tuple[int, int]
) -> None:
    rows, columns = shape
    if form == FACTORED:
        rank = _length(claims, f"{prefix}left")
        _check_claim(claims, f"{prefix}left", "F32", (rows, rank))
        _check_claim(claims, f"{prefix}right", "F32", (columns, rank))
    elif form == DENSE:
        _check_claim(claims, f"{prefix}dense", "F32", shape)
    else:
        _check_claim(claims, f"{prefix}mask", "U8", ((rows * columns + 7) // 8,))
        count = min(_length(claims, f"{prefix}values"), rows * columns)
        _check_claim(claims, f"{prefix}values", "F32", (count,))


def _length(claims: Mapping[str, Claim], name: str) -> int:
    """The last size of a tensor."""
    if name not in claims or not claims[name].shape:
        raise ValueError(f"{name} is missing")
    return claims[name].shape[-1]


def _check_claim(
    claims: Mapping[str, Claim], name: str, dtype: str, shape: tuple[int, ...]
) -> None:
    if name not in claims or claims[name] != Claim(dtype, shape):
        raise ValueError(f"{name} is {claims.get(name)}, not {dtype} {list(shape)}")
