"""Sessions on disk: with a journal that grows beside them, or as a patch to move elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from alphaedit_plugin.common.errors import PatchError
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.header import Header
from alphaedit_plugin.patches.journal import Journal
from alphaedit_plugin.patches.patch import Patch, read_patch, write_patch

logger = logging.getLogger(__name__)


def open_session(
    lm: EditableModel, layers: Sequence[int], journal: str | Path | None = None
) -> EditSession:
    """A session that keeps every batch in a folder, as it is applied.

    Args:
        lm: the model, without any edit.
        layers: that may be edited.
        journal: the folder; what it holds is applied first, so that the session goes on where an
            earlier one was. ``None`` keeps nothing.

    Raises:
        ModelError: see `EditSession`.
        PatchError: the journal is damaged, or another model's, other layers' or another dtype's.
        ConfigError: the journal cannot be written.
    """
    session = EditSession(lm, layers)
    if journal is None:
        return session
    folder, weights = Path(journal).expanduser(), pristine_weights(session)
    store = Journal.fitting(folder, lm, weights)
    if store is None:
        session.store = Journal.create(folder, Header.of(lm, weights))
        return session
    session.adopt(store.entries, store.metrics)
    found = session.checksums()
    if store.after and dict(store.after) != found:
        logger.warning(
            "the journal's edits give weights that differ in rounding from those of the run "
            "that made them: another machine, or another number of threads"
        )
    store.after = found
    session.store = store
    return session


def load_session(lm: EditableModel, path: str | Path, *, force: bool = False) -> EditSession:
    """A session with everything that a patch holds applied, ready to go on.

    Args:
        lm: a fresh copy of the model that the patch was made for; in the same dtype its weights
            become those of the editing run, bit for bit.
        path: a file of `save_session`.
        force: apply it to another model, or to other weights, of the same shapes.

    Raises:
        PatchError: the patch is missing, damaged or hostile, or for a model of other shapes; or,
            without ``force``, for another model. No weight has changed then.
        NumericalError: a weight would overflow; likewise.
    """
    path = Path(path).expanduser()
    patch = read_patch(path, lm)
    try:
        return session_of(patch, lm, force=force)
    except PatchError as error:
        raise PatchError(f"{path} is refused: {error}") from None


def session_of(patch: Patch, lm: EditableModel, *, force: bool = False) -> EditSession:
    """As `load_session`, of a patch that was read for this model already."""
    session = EditSession(lm, list(patch.header.places))
    if not force:
        patch.header.check_model(lm, pristine_weights(session))
    session.adopt(patch.entries, patch.metrics)
    return session


def save_session(session: EditSession, path: str | Path, *, keys: bool = True) -> None:
    """Write one file of which `load_session` and ``alphaedit apply`` make the same edits elsewhere.

    Args:
        session: whose edits.
        path: replaced once the new file is complete.
        keys: store the keys of all edits, too, so that editing goes on exactly from it.

    Raises:
        AlphaEditError: see `EditSession.check_weights`.
        ConfigError: the file cannot be written.
    """
    write_patch(patch_of(session), Path(path).expanduser(), keys)


def patch_of(session: EditSession) -> Patch:
    """All that stands in a session.

    Raises:
        AlphaEditError: see `EditSession.check_weights`.
    """
    session.check_weights()
    header = Header.of(session.lm, pristine_weights(session))
    return Patch(header, tuple(session.journal), session.checksums(), dict(session.metrics))


def pristine_weights(session: EditSession) -> dict[int, Tensor]:
    """``W0 (d_out, d_in)`` of each layer."""
    return {layer: session.pristine(layer) for layer in session.layers}
