"""Projector files: what a projector is, which model it is for, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ProjectorError
from alphaedit_plugin.common.tensor_file import (
    DamagedFile,
    read_tensors,
    require_replaceable,
    write_tensors,
)
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.models.editable import EditableModel, dtype_name
from alphaedit_plugin.models.fingerprint import Fingerprint
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector, orthonormal

FINGERPRINT = "fingerprint"
PARTS = frozenset({"model", "corpus", "layers"})


@dataclass(frozen=True)
class ProjectorFile:
    """A projector file, read without a model.

    Attributes:
        projectors: by layer.
        modules: whose weight each is for.
        model: the model's name and type, for people.
        corpus: what the second moments came from, for people.
        fingerprint: of what produced the keys of the highest layer.
        version: of this package when it was written.
    """

    projectors: Mapping[int, Projector]
    modules: Mapping[int, str]
    model: str
    corpus: str
    fingerprint: Fingerprint
    version: str = VERSION


def save_projectors(
    lm: EditableModel,
    projectors: Mapping[int, Projector],
    path: Path,
    corpus: str = "",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write one file with the projectors of a model, and what they belong to.

    Args:
        lm: the model they were fitted on.
        projectors: by layer; each is stored as ``U`` or as the null space's own basis, whichever
            is smaller: at most ``d_in²/2`` numbers.
        path: replaced once the new file is complete.
        corpus: what the second moments came from, for people.
        dtype: half precision halves the file and tilts the subspace by its rounding; what is
            read from it is orthonormal again.

    Raises:
        ConfigError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {FINGERPRINT: Fingerprint.of(lm, max(projectors)).values}
    layers = {}
    for layer, projector in projectors.items():
        tensors[f"{layer}.basis"] = projector.basis.to(dtype)
        tensors[f"{layer}.eigenvalues"] = projector.eigenvalues
        layers[layer] = {
            "module": lm.layout.down_proj.format(layer),
            "cut": asdict(projector.cut),
            "spans_null": projector.spans_null,
            "tokens": projector.tokens,
            "null_eigenvalue": projector.null_eigenvalue,
        }
    content = {
        "model": describe(lm),
        "corpus": corpus,
        "dtype": dtype_name(dtype),
        "version": VERSION,
        "layers": layers,
    }
    write_tensors(path, tensors, content)


def require_place(path: Path) -> None:
    """Refuse a place where no projector can be written, or where something else is.

    Raises:
        ConfigError: see `require_replaceable`; an earlier projector may be replaced.
    """
    require_replaceable(path, "projector file", lambda content: set(content) >= PARTS)


def read_projectors(path: Path, layers: Sequence[int] | None = None) -> ProjectorFile:
    """Read a projector file, or some layers of it, whatever model it is for.

    Raises:
        ProjectorError: the file is missing or damaged, or lacks a layer.
    """
    wanted = None if layers is None else {f"{layer}." for layer in layers}

    def is_wanted(name: str) -> bool:
        return wanted is None or name == FINGERPRINT or name.startswith(tuple(wanted))

    try:
        tensors, content = read_tensors(path, is_wanted)
        if not set(content) >= PARTS:
            raise ProjectorError(
                f"{path} is not a projector file{_instead(content)}: make one with alphaedit fit"
            )
        known = {int(layer): facts for layer, facts in content["layers"].items()}
        missing = [layer for layer in layers or () if layer not in known]
        if missing:
            raise ProjectorError(
                f"{path} holds layers {', '.join(map(str, sorted(known)))}, not layer "
                f"{missing[0]}: fit a projector for the layers you edit"
            )
        chosen = {layer: known[layer] for layer in (sorted(known) if layers is None else layers)}
        return ProjectorFile(
            {layer: _projector(tensors, layer, facts) for layer, facts in chosen.items()},
            {layer: str(facts["module"]) for layer, facts in chosen.items()},
            str(content["model"]),
            str(content["corpus"]),
            Fingerprint(tensors[FINGERPRINT].float()),
            str(content["version"]),
        )
    except FileNotFoundError:
        raise ProjectorError(f"no projector file at {path}: make one with alphaedit fit") from None
    except DamagedFile as error:
        raise ProjectorError(str(error)) from None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ProjectorError(f"{path} is not a projector file: {error}") from None


def _instead(content: Mapping[str, Any]) -> str:
    """What a file of `write_tensors` is, where it says so."""
    kind = content.get("kind")
    return f", but a {kind[:20]}" if isinstance(kind, str) and kind.isidentifier() else ""


def _projector(tensors: Mapping[str, Tensor], layer: int, facts: Mapping[str, Any]) -> Projector:
    basis = tensors[f"{layer}.basis"]
    if basis.ndim != 2 or basis.shape[1] > basis.shape[0] or not torch.isfinite(basis).all():
        raise ValueError(f"layer {layer} has no basis of columns, but {tuple(basis.shape)}")
    if basis.dtype is not torch.float32:
        basis = orthonormal(basis)
    elif basis.shape[1]:
        gram = basis.T @ basis
        if not torch.allclose(gram, torch.eye(len(gram)), atol=1e-4):
            raise ValueError(f"the basis of layer {layer} is not orthonormal")
    cut = Cut(CutRule(facts["cut"]["rule"]), float(facts["cut"]["value"]))
    eigenvalues = tensors[f"{layer}.eigenvalues"].float()
    return Projector(
        basis,
        eigenvalues,
        cut,
        bool(facts["spans_null"]),
        int(facts["tokens"]),
        float(facts.get("null_eigenvalue", 0.0)),  # files of version 0.1 may lack it
    )


def load_projectors(
    lm: EditableModel, layers: Sequence[int], path: Path, trust: bool = False
) -> dict[int, Projector]:
    """Read the projectors of ``layers``, after checking that they belong to this model.

    A model's edits do not matter, nor does its dtype: see `Fingerprint`.

    Args:
        lm: the model they are to be used on.
        layers: which to read.
        path: a file of `save_projectors`.
        trust: use them although the fingerprint is another model's; shapes are checked still.

    Raises:
        ProjectorError: the file is missing or damaged, lacks a layer, or was made for another
            model; both sides are named.
    """
    file = read_projectors(path, layers)
    if max(layers) >= lm.depth:
        raise ProjectorError(
            f"{path} is for {file.modules[max(layers)]} of {file.model}, but this is "
            f"{describe(lm)} with {lm.depth} blocks: fit a projector for this model"
        )
    ours = Fingerprint.of(lm, max(layers))
    for layer in layers:
        module, d_in = lm.layout.down_proj.format(layer), lm.key_size(layer)
        theirs = file.projectors[layer].d_in
        if file.modules[layer] != module or theirs != d_in:
            raise ProjectorError(
                f"{path} is for {file.modules[layer]} of {file.model}, with keys of {theirs} "
                f"dimensions, but this is {describe(lm)}, which has {module} with {d_in}: fit a "
                "projector for this model"
            )
    if not trust and not _same(file.fingerprint, ours):
        raise ProjectorError(
            f"{path} was made for {file.model} with fingerprint {file.fingerprint}, but this is "
            f"{describe(lm)} with {ours}: fit a projector for this model, or say "
            "projector.trust=true if you know that its keys are the same"
        )
    return dict(file.projectors)


def refuse_other_cut(projectors: Mapping[int, Projector], wanted: Cut | None, path: Path) -> None:
    """Refuse a stored projector that was cut otherwise than someone asks for: it stays as it is.

    Args:
        projectors: by layer, as read from ``path``.
        wanted: the cut that was asked for, if any was.
        path: for the message.

    Raises:
        ProjectorError: naming both cuts.
    """
    for layer, projector in projectors.items():
        if wanted is not None and projector.cut != wanted:
            raise ProjectorError(
                f"{path} was made with the cut {projector.cut} in layer {layer}, but {wanted} is "
                "asked for: remove the cut, or fit a projector with it"
            )


def _same(theirs: Fingerprint, ours: Fingerprint) -> bool:
    return theirs.covers(ours) or ours.covers(theirs)


def describe(lm: EditableModel) -> str:
    """A model's name and family, for people: names and paths are never compared."""
    config = lm.model.config
    name = str(getattr(config, "_name_or_path", "")) or "a model"
    return f"{Path(name).name if Path(name).is_dir() else name} ({config.model_type})"
