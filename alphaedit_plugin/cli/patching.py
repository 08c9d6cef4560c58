"""What apply and verify share: a patch or a journal, put into a fresh copy of its model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from alphaedit_plugin.cli.base import ANY_LAYER
from alphaedit_plugin.common.errors import PatchError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.model import Dtype
from alphaedit_plugin.config.schema import MethodSettings

if TYPE_CHECKING:
    from alphaedit_plugin.editing.session import EditSession
    from alphaedit_plugin.models.editable import EditableModel
    from alphaedit_plugin.patches.patch import Patch

Schema = TypeVar("Schema", bound=MethodSettings)


def config_for(path: str, overrides: Sequence[str], schema: type[Schema]) -> Schema:
    """The configuration, with the patch's own layers and dtype where none are given.

    Raises:
        PatchError: there is no patch or journal at ``path``, or it is damaged.
        ConfigError: see `load_config`.
    """
    load_config([ANY_LAYER, *overrides], schema)  # answers a typing error at once
    if not os.path.exists(Path(path).expanduser()):  # False also for a name that is too long
        raise PatchError(f"no patch or journal at {path}: alphaedit edit makes both")
    from alphaedit_plugin.patches.journal import read_header

    header = read_header(Path(path).expanduser())
    layers = f"model.layers={sorted(header.layers)}".replace(" ", "")
    own = [layers, *([f"model.dtype={header.dtype}"] if header.dtype in get_args(Dtype) else [])]
    return load_config([*own, *overrides], schema)


def read_patch_or_journal(path: str, lm: EditableModel) -> Patch:
    """A patch from its file, or what stands in a journal.

    Raises:
        PatchError: it is missing, damaged, or belongs to another model.
    """
    from alphaedit_plugin.patches.journal import Journal
    from alphaedit_plugin.patches.patch import read_patch

    place = Path(path).expanduser()
    if not place.is_dir():
        return read_patch(place, lm)
    journal = Journal.read(place)
    journal.header.check_layers(lm)
    return journal.patch


def apply_patch(path: str, lm: EditableModel, patch: Patch, force: bool) -> EditSession:
    """Write a patch's edits; raises `PatchError` where it is refused."""
    from alphaedit_plugin.patches.sessions import session_of

    try:
        return session_of(patch, lm, force=force)
    except PatchError as error:
        raise PatchError(f"{path} is refused: {error}; force=true applies it anyway") from None


def exactness(session: EditSession, patch: Patch) -> str:
    """Whether the weights are those of the run that made the patch."""
    from alphaedit_plugin.common.tensor_file import checksums
    from alphaedit_plugin.models.editable import dtype_name

    if session.checksums() == dict(patch.after):
        return "the weights are those of the editing run, bit for bit"
    if not patch.after:
        return "the edits that stay are applied"
    ours = dtype_name(session.lm.weight(0).dtype)
    if ours != patch.header.dtype:
        return f"the weights are those of the editing run ({patch.header.dtype}) in {ours}"
    if checksums({n: session.pristine(n) for n in session.layers}) != dict(patch.header.before):
        return "forced: the weights are not those of the editing run"
    return "the weights are those of the editing run but for the rounding of another machine"
