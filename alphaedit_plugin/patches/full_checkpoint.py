"""An edited model as an ordinary checkpoint of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from alphaedit_plugin.common.files import filled_folder
from alphaedit_plugin.models.editable import EditableModel, dtype_name
from alphaedit_plugin.models.pretrained import is_at_hand, pretrained


def save_checkpoint(lm: EditableModel, folder: Path) -> None:
    """Save model and tokenizer as they are now, for ``from_pretrained``; whole or not at all.

    Raises:
        ConfigError: the folder cannot be written.
    """
    with filled_folder(folder) as unfinished:
        lm.model.save_pretrained(unfinished)
        lm.tokenizer.save_pretrained(unfinished)


def dtype_note(lm: EditableModel, path: str | None) -> str:
    """A remark if a checkpoint has another dtype than the one it was made from, else nothing.

    Args:
        lm: the model that was saved.
        path: what it was loaded from; ``None`` for the pocket model.
    """
    ours, theirs = lm.weight(0).dtype, None if path is None else _dtype_of(path)
    if theirs is None or theirs == ours:
        return ""
    name = dtype_name(theirs)
    size = ours.itemsize / theirs.itemsize
    larger = f", {size:g} times the size" if size > 1 else ""
    return (
        f" in {dtype_name(ours)}{larger}: the original is in {name}, which model.dtype={name} keeps"
    )


def _dtype_of(path: str) -> Any:
    """The dtype that a checkpoint names; ``None`` where it names none, as a GGUF file."""
    if not is_at_hand(path):  # the model came from a package
        return None
    try:
        config = pretrained(AutoConfig, path)
    except (OSError, ValueError):
        return None
    return config.dtype or config.get_text_config().dtype
