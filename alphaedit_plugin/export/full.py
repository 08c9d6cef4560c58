"""An edited model as a checkpoint like any other."""

from __future__ import annotations

from pathlib import Path

from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.outputs import filled_folder


def save_checkpoint(view: EditableModel, folder: Path) -> None:
    """Save model and tokenizer as they are now, for ``from_pretrained``.

    Raises:
        AlphaEditError: it cannot be written; nothing is left of it then.
    """
    with filled_folder(folder) as unfinished:
        view.model.save_pretrained(unfinished)
        view.tokenizer.save_pretrained(unfinished)
