"""Sessions on disk: opened with a journal, saved as a patch and loaded from one."""

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
    """A session that writes every batch to a journal as it is applied.

    Args:
        lm: the model, without any edit.
        layers: that may be edited.
        journal: a folder; what it holds is applied first, so that the session goes on where an
            earlier one stopped. ``None`` for a session without a journal.

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
    after = session.checksums()
    if store.after and dict(store.after) != after:
        logger.warning(
            "the journal's edits give other weights than in the run that made them: rounding, on "
            "another machine or with another number of threads, or a damaged journal"
        )
    store.after = after
    session.store = store
    return session


def load_session(lm: EditableModel, path: str | Path, *, force: bool = False) -> EditSession:
    """A session with a patch applied, ready to go on.

    Args:
        lm: a fresh copy of the model that the patch was made for; in the same dtype its weights
            become those of the editing run, bit for bit.
        path: a file of `save_session`.
        force: apply it to another model, or to other weights, of the same shapes.

    Raises:
        PatchError: the patch is missing, damaged or malformed, or for a model of other shapes;
            or, without ``force``, for another model. No weight has changed then.
        NumericalError: a weight would overflow; no weight has changed then.
    """
    path = Path(path).expanduser()
    patch = read_patch(path, lm)
    try:
        return session_of(patch, lm, force=force)
    except PatchError as error:
        raise PatchError(f"{path} is refused: {error}") from None


def session_of(patch: Patch, lm: EditableModel, *, force: bool = False) -> EditSession:
    """As `load_session`, of a patch that `read_patch` read for this model."""
    session = EditSession(lm, list(patch.header.layers))
    if not force:
        patch.header.check_model(lm, pristine_weights(session))
    session.adopt(patch.entries, patch.metrics)
    return session


def save_session(session: EditSession, path: str | Path, *, keys: bool = True) -> None:
    """Write a patch, for `load_session` and ``alphaedit apply``.

    Args:
        session: whose edits to write.
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
