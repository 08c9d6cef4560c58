"""Files of records, and reading them as ``load_data`` does."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.data.settings import DataConfig

DATA_DIR = Path(
    os.environ.get("DATA_DIR", Path(__file__).resolve().parents[2].parent / "shared" / "data")
)


def write(folder: Path, content: Any, name: str = "edits.json") -> Path:
    """``content`` as JSON, one value per line; a text as it is."""
    path = folder / name
    if isinstance(content, list):
        content = "[\n" + ",\n".join(map(json.dumps, content)) + "\n]"
    elif not isinstance(content, str):
        content = json.dumps(content)
    path.write_text(content, encoding="utf-8")
    return path


def load(name: str, path: Path | None = None, **settings: Any) -> EditData:
    """The data of a file, with further settings of ``data``."""
    shared = {field.name for field in fields(DataConfig)}
    own = {key: settings.pop(key) for key in list(settings) if key not in shared}
    options = {key: value for key, value in own.items() if value is not None}
    if path is not None:
        options["path"] = str(path)
    data = DataConfig(name=name, options=options, **settings)
    pocket = SimpleNamespace(path=None)
    return load_data(SimpleNamespace(data=data, seed=0, model=pocket, retention=9))


def without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}
