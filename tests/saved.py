"""A tiny model in a folder, with a corpus beside it, and the configuration that names both."""

from __future__ import annotations

from pathlib import Path

from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import TEXTS


def save_model(lm: EditableModel, folder: Path) -> Path:
    """``model/`` and ``text.txt`` in ``folder``."""
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    (folder / "text.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return folder


def overrides_of(saved: Path) -> list[str]:
    """What the command line is told of a folder of `save_model`."""
    return [
        "model=custom",
        f"model.path={saved / 'model'}",
        "model.layers=[1,2]",
        f"model.moments.corpus={saved / 'text.txt'}",
        "model.contexts.templates=['He said. {}']",
    ]


def config_of(saved: Path, *overrides: str) -> EditorConfig:
    """The configuration of a folder of `save_model`."""
    return load_config([*overrides_of(saved), *overrides])
