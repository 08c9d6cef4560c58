"""Edits on disk: a journal that grows with a run, and patches that move it elsewhere."""

from __future__ import annotations

from alphaedit_plugin.patches.header import Header
from alphaedit_plugin.patches.journal import Journal, read_header
from alphaedit_plugin.patches.patch import Patch, bytes_of, read_patch, write_patch
from alphaedit_plugin.patches.sessions import (
    load_session,
    open_session,
    patch_of,
    save_session,
    session_of,
)

__all__ = [
    "Header",
    "Journal",
    "Patch",
    "bytes_of",
    "load_session",
    "open_session",
    "patch_of",
    "read_header",
    "read_patch",
    "save_session",
    "session_of",
    "write_patch",
]
