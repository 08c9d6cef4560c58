"""The files of the pocket world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"


def read_asset(name: str) -> Any:
    """The content of a JSON file."""
    return json.loads((ASSETS / name).read_text(encoding="utf-8"))


def read_texts(name: str) -> tuple[str, ...]:
    """The lines of ``corpus.txt``, or of ``held_out.txt``."""
    return tuple((ASSETS / name).read_text(encoding="utf-8").splitlines())
