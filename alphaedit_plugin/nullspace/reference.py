"""The reference's dense ``null_space_project.pt``: a stack of projectors, ``d_in²`` each."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ProjectorError
from alphaedit_plugin.models.editable import EditableModel, check_size
from alphaedit_plugin.nullspace.cut import Cut
from alphaedit_plugin.nullspace.projector import Projector, orthonormal

SUFFIXES = (".pt", ".pth")
TOLERANCE = 1e-3  # relative, between a dense projector and the one made from its span


def load_reference(lm: EditableModel, layers: Sequence[int], path: Path) -> dict[int, Projector]:
    """Read AlphaEdit's own projector file; nothing in it is executed.

    It says neither its layers nor its model: they are taken in the given order, and only shapes
    can be checked.

    Args:
        lm: the model to use them on.
        layers: what the file was made for, in its order.
        path: holds one tensor ``(len(layers), d_in, d_in)``.

    Raises:
        ProjectorError: the file is missing or of another kind, another shape, or holds matrices
            that are no projectors.
    """
    stack = read_stack(path)
    if len(stack) != len(layers):
        raise ProjectorError(
            f"{path} holds {len(stack)} projectors, but layers {list(layers)} are edited: name the "
            "layers it was made for, in their order"
        )
    for layer in layers:
        check_size(lm, layer, stack.shape[1], path, ProjectorError)
    return {layer: _from_dense(dense, path) for layer, dense in zip(layers, stack, strict=True)}


def read_reference(path: Path) -> dict[int, Projector]:
    """The projectors of a file without a model, by their place in it."""
    return {place: _from_dense(dense, path) for place, dense in enumerate(read_stack(path))}


def read_stack(path: Path) -> Tensor:
    """``(n, d_in, d_in)``, without running anything; mapped, as it may be gigabytes.

    Raises:
        ProjectorError: it is missing, or holds anything else.
    """
    stack = _load(path)
    shape = stack.shape if isinstance(stack, Tensor) else ()
    if (
        len(shape) != 3
        or shape[1] != shape[2]
        or 0 in shape
        or _describe(stack) != str(tuple(shape))
    ):
        raise ProjectorError(
            f"{path} holds {_describe(stack)}, where AlphaEdit's files hold one projector per "
            "layer, (layers, d_in, d_in)"
        )
    return stack


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            mapped = zipfile.is_zipfile(stream)  # what an old torch wrote cannot be mapped
            stream.seek(0)
            page = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
        if not page:
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except FileNotFoundError:
        raise ProjectorError(f"no projector file at {path}") from None
    except (
        RuntimeError, OSError, ValueError, EOFError, pickle.UnpicklingError,
        LookupError, TypeError, AttributeError,  # of the unpickler, on other files
    ) as error:  # fmt: skip
        said = str(error).strip().splitlines() or [type(error).__name__]
        # What torch advises there is to run whatever the file holds.
        why = "it cannot be read safely" if isinstance(error, pickle.UnpicklingError) else said[0]
        raise ProjectorError(f"{path} is not a file of tensors: {why}") from None
    raise ProjectorError(
        f"{path} is a web page: the download failed, or wanted a login; get the file again"
    )


def _describe(stack: Any) -> str:
    """The shape of a plain tensor of real numbers, or what it is instead."""
    if not isinstance(stack, Tensor):
        return type(stack).__name__
    if stack.layout is not torch.strided:
        return f"sparse {tuple(stack.shape)}"
    if not stack.is_floating_point():
        return f"{stack.dtype} {tuple(stack.shape)}"
    return str(tuple(stack.shape))


def _from_dense(dense: Tensor, path: Path) -> Projector:
    """The same projector, factored: through the range of ``P`` or of ``I − P``."""
    p = dense.double()
    d_in = len(p)
    null_dimension = round(p.trace().item()) if torch.isfinite(p).all() else -1
    spans_null = 2 * null_dimension < d_in
    size = null_dimension if spans_null else d_in - null_dimension
    if 0 <= size <= d_in:
        generator = torch.Generator().manual_seed(0)
        probes = torch.randn(d_in, size, dtype=torch.float64, generator=generator)
        # A projector maps random vectors onto a basis of its range (Halko et al. 2011).
        basis = orthonormal(p @ probes if spans_null else probes - p @ probes)
        made = Projector(basis, torch.empty(0), Cut(), spans_null)
        test = torch.randn(d_in, 8, dtype=torch.float64, generator=generator)
        # What rounding a dense P costs, in half precision most of all.
        tolerance = max(TOLERANCE, 2 * torch.finfo(dense.dtype).eps)
        if (made.apply(test) - p @ test).norm() <= tolerance * test.norm():
            return made
    raise ProjectorError(f"{path} holds a matrix that is not an orthogonal projector")
