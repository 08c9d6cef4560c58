from __future__ import annotations

import dataclasses
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError, NumericalError, PatchError
from alphaedit_plugin.common.tensor_file import METADATA
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.patch import bytes_of, read_patch
from alphaedit_plugin.patches.sessions import load_session, save_session
from tests.patches.edits import FORMS, LAYERS, RICH, edit, forge, fresh, parts_of
from tests.tiny import FAMILIES, assert_same_weights, relative, weights_of

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Tensors = dict[str, Tensor]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edits.safetensors"


def saved(path: Path, *seeds: int, form: str = "factored", **model: Any) -> EditSession:
    session = EditSession(fresh(**model), LAYERS)
    edit(session, *(seeds or (0, 1)), form=form)
    save_session(session, path)
    return session


# ---------------------------------------------------------------------------------------------
# The same edits elsewhere


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_patch_gives_the_same_weights_bit_for_bit(
    path: Path, dtype: torch.dtype, form: str
) -> None:
    session = saved(path, 0, 1, 2, dtype=dtype, form=form)
    session.note({session.ids[1]: {"rewrite": [1.0]}})
    save_session(session, path)
    loaded = load_session(fresh(dtype), path)
    assert_same_weights(loaded.lm, weights_of(session.lm))
    assert loaded.requests == session.requests
    assert loaded.requests[0] == RICH
    assert loaded.metrics == session.metrics
    plain = [dataclasses.replace(e, writes=(), past_keys={}) for e in session.journal]
    assert [dataclasses.replace(e, writes=(), past_keys={}) for e in loaded.journal] == plain


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_session_goes_on_exactly_and_back_to_the_start(path: Path, family: str) -> None:
    session, before = saved(path, family=family), weights_of(fresh(family=family))
    loaded = load_session(fresh(family=family), path)
    for one in (session, loaded):
        edit(one, 7)
        one.undo(one.journal[0].name)
    assert_same_weights(loaded.lm, weights_of(session.lm))
    for layer in LAYERS:
        like = session.lm.weight(layer).T[:, :0].float()
        ours, theirs = (one.past(layer).joined(like) for one in (loaded, session))
        assert torch.equal(ours, theirs)
    loaded.reset()
    assert_same_weights(loaded.lm, before)


def test_a_patch_is_small_and_its_sparse_deltas_are_smaller_than_dense_ones(path: Path) -> None:
    sizes = {}
    for form in FORMS:
        session = saved(path, 0, form=form)
        sizes[form] = path.stat().st_size
    entries = session.lm.weight(1).numel() * len(LAYERS)
    assert sizes["factored"] < 0.1 * bytes_of(session.lm)
    assert sizes["dense"] - sizes["sparse"] > 0.9 * (4 * entries - 2 * entries - entries / 8)


def test_keys_can_be_left_out(path: Path) -> None:
    session = saved(path)
    whole = path.stat().st_size
    save_session(session, path, keys=False)
    assert path.stat().st_size < 0.8 * whole
    loaded = load_session(fresh(), path)
    assert_same_weights(loaded.lm, weights_of(session.lm))
    assert loaded.past(1).count == 0


def test_the_sum_of_a_patch(path: Path) -> None:
    session = saved(path, 0, 1)
    patch = read_patch(path, session.lm)
    assert patch.delta(1).left.shape == (32, 4)
    assert relative(patch.delta(3).dense, session.accumulated(3)) < 1e-6
    edit(session, 2, form="dense")
    save_session(session, path)
    assert relative(read_patch(path, session.lm).delta(3).dense, session.accumulated(3)) < 1e-6


# ---------------------------------------------------------------------------------------------
# Another model


def refused(lm: EditableModel, path: Path, match: str, **options: Any) -> None:
    """Nothing of it was applied, and the message is one line."""
    before = weights_of(lm)
    with pytest.raises(PatchError, match=match) as caught:
        load_session(lm, path, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert_same_weights(lm, before)


def test_another_model_is_refused_unless_forced(path: Path) -> None:
    session, other = saved(path), fresh(seed=1)
    start = other.weight(1).clone()
    refused(other, path, r"made for .* with fingerprint \w{16}, but this is .* with \w{16}")
    load_session(other, path, force=True)
    assert relative(other.weight(1) - start, session.accumulated(1)) < 1e-5


def test_a_model_with_these_edits_already_is_refused(path: Path) -> None:
    session = saved(path)
    refused(session.lm, path, "starts from other weights .* in transformer.h.1.mlp")


@pytest.mark.parametrize("there", [torch.bfloat16, torch.float16])
def test_another_dtype_rounds_the_same_edits(path: Path, there: torch.dtype) -> None:
    session = saved(path)
    lm = fresh(there)
    start = lm.weight(1).float().clone()
    load_session(lm, path)
    assert torch.equal(lm.weight(1), (start + session.accumulated(1)).to(there))
    lm.weight(3)[:, 0] += 1.0
    refused(lm, path, "starts from other weights")


@pytest.mark.parametrize("lm", ["gptj", "llama"])
def test_another_family_is_refused_even_when_forced(path: Path, lm: str) -> None:
    saved(path)
    refused(fresh(family=lm), path, r"transformer\.h\.1\.mlp\.c_proj. \[32, 128\]", force=True)


def test_weights_that_would_overflow_are_refused(path: Path) -> None:
    session = EditSession(fresh(), [1])
    with session.batch():
        session.write(1, Delta(torch.full((32, 128), 1e6)))
        session.commit([RICH])
    save_session(session, path)
    lm = fresh(torch.float16)
    before = weights_of(lm)
    with pytest.raises(NumericalError, match="layer 1 overflows"):
        load_session(lm, path)
    assert_same_weights(lm, before)


def test_a_patch_that_cannot_be_written_leaves_the_old_one(path: Path) -> None:
    session = saved(path)
    old = path.read_bytes()
    edit(session, 5)
    with pytest.raises(ConfigError, match="cannot be written"):
        save_session(session, path / "in_a_file")
    assert path.read_bytes() == old
    session.lm.weight(1)[0, 0] += 1
    with pytest.raises(Exception, match="was changed by something other"):
        save_session(session, path)
    assert path.read_bytes() == old


# ---------------------------------------------------------------------------------------------
# Patches from strangers


REMOVE = object()
# What is put where, and what the refusal says.
HOSTILE_CONTENT: list[tuple[str, Any, str]] = [
    ("format", 1, "not of format 2"),
    ("format", REMOVE, "not of format 2"),
    ("kind", "entry", "of kind 'entry'"),
    ("header", REMOVE, "unknown field 'after' of Header"),
    ("header.layers", {}, "names no layer"),
    ("header.layers", REMOVE, "Header lacks its field 'layers'"),
    ("header.layers.99", {"module": "x", "shape": [1, 1], "before": ""}, "4 blocks"),
    ("header.layers.1.module", "lm_head", "lm_head"),
    ("header.layers.1.shape", [10**12, 10**12], "but this is"),
    ("header.model", 5, "model: expected a text"),
    ("header.fingerprint.values", "2", "not F32"),
    ("entries", {"a": 1}, "entries: expected a list"),
    ("entries.0.writes.0.layer", 2, "edits layer 2"),
    ("entries.0.writes.0.layer", REMOVE, "expected a whole number"),
    ("entries.0.writes.0.pickled", "2", "not those of a delta"),
    ("entries.0.writes.0.left", "../../etc/passwd", "does not contain"),
    ("entries.0.writes.0.left", 5, "a tensor's name"),
    ("entries.0.past_keys.0", "3", "edits layer 0"),
    ("entries.0.requests.0.prompt", "x", "slots"),
    ("entries.0.requests.0.target_new", "\ud800", "surrogate"),
    ("entries.0.requests", [], "of other edits"),
    ("entries.0.searches.0", REMOVE, "of other edits"),
    ("entries.0.ids", ["e1"], "of other edits"),
    ("entries.0.ids.0", "e1", "one name"),
    ("metrics", [], "metrics: expected an object"),
]


def put_at(content: Any, place: str, value: Any) -> None:
    *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in way:
        content = content[str(part) if isinstance(content, dict) else part]
    if value is REMOVE:
        del content[last]
    elif isinstance(content, list) and last == len(content):
        content.append(value)
    else:
        content[str(last) if isinstance(content, dict) else last] = value


@pytest.mark.parametrize(("place", "value", "match"), HOSTILE_CONTENT)
def test_what_a_hostile_patch_says_is_refused(
    path: Path, place: str, value: Any, match: str
) -> None:
    saved(path)
    tensors, content = parts_of(path)
    content["entries"][0]["ids"][1] = "e1"
    put_at(content, place, value)
    forge(path, tensors, content)
    refused(fresh(), path, match, force=True)


Spoil = Callable[[Tensor], Tensor]


def with_number(value: float) -> Spoil:
    def spoiled(tensor: Tensor) -> Tensor:
        tensor.flatten()[3] = value
        return tensor

    return spoiled


# What becomes of one tensor of the first write, or of its keys.
HOSTILE_TENSORS: dict[str, tuple[str, str, Spoil, str]] = {
    "nan": ("factored", "left", with_number(torch.nan), "not finite"),
    "infinity": ("dense", "dense", with_number(torch.inf), "not finite"),
    "a key of nan": ("factored", "keys", with_number(torch.nan), "not finite"),
    "another key": ("factored", "keys", lambda t: t[:, :1], "of other edits"),
    "float64": ("factored", "left", Tensor.double, "F64"),
    "another rank": ("factored", "left", lambda t: t[:, :1], r"not F32 \[128, 1\]"),
    "turned round": ("factored", "left", lambda t: t.T, r"not F32 \[32, any\]"),
    "a number": ("factored", "left", lambda t: t[0, 0], r"\[\], not"),
    "too wide": ("dense", "dense", lambda t: torch.zeros(32, 129), r"not F32 \[32, 128\]"),
    "more bits than values": ("sparse", "mask", lambda t: torch.full_like(t, 255), "F32"),
    "a longer mask": ("sparse", "mask", lambda t: torch.zeros(10**6).byte(), r"not U8 \[512\]"),
    "more values than bits": ("sparse", "values", lambda t: torch.ones(5000), "not F32"),
}


@pytest.mark.parametrize("case", HOSTILE_TENSORS)
def test_tensors_of_a_hostile_patch_are_refused(path: Path, case: str) -> None:
    form, part, spoil, match = HOSTILE_TENSORS[case]
    saved(path, form=form)
    tensors, content = parts_of(path)
    entry = content["entries"][0]
    name = entry["past_keys"]["1"] if part == "keys" else entry["writes"][0][part]
    tensors[name] = spoil(tensors[name])
    forge(path, tensors, content)
    refused(fresh(), path, match, force=True)


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def with_header(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def described(content: str) -> bytes:
    """A header with metadata of ours."""
    return with_header(json.dumps({"__metadata__": {METADATA: content}}).encode())


CLAIM = {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
FILES: dict[str, bytes] = {
    "nothing": b"",
    "text": b"no patch at all, but longer than a header",
    "a pickle": pickle.dumps(Bomb()),
    "a header without an end": with_header(b"{}", length=2**62),
    "a header that claims more than there is": with_header(json.dumps(CLAIM).encode(), b"1234"),
    "a header that is no object": with_header(b"[1, 2]"),
    "no metadata": with_header(b"{}"),
    "metadata of another kind": described("[]"),
    "nested without an end": described("[" * 200_000),
    "a number without an end": described('{"kind": ' + "9" * 10_000 + "}"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_patch_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(path.parent)
    path.write_bytes(FILES[case])
    refused(fresh(), path, "damaged", force=True)
    assert os.listdir() == [path.name]


def test_a_file_larger_than_any_patch_is_refused_before_it_is_read(path: Path) -> None:
    header = json.dumps(CLAIM).encode()
    path.write_bytes(with_header(header))
    os.truncate(path, 8 + len(header) + 2**42)  # a hole: it takes no room on disk
    refused(fresh(), path, "4096 GiB", force=True)


@pytest.mark.parametrize("place", ["", "nowhere.safetensors"])
def test_no_file(path: Path, place: str) -> None:
    refused(fresh(), path.parent / place, "no patch at")
