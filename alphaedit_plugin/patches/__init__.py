"""Edits on disk: a journal that grows with a run, and patches that move it elsewhere."""

from __future__ import annotations

from alphaedit_plugin.editing.entry import Entry, Search, Write
from alphaedit_plugin.editing.undo import Undone, plan, remaining
from alphaedit_plugin.patches.header import Header, checksums
from alphaedit_plugin.patches.journal import Journal, read_header
from alphaedit_plugin.patches.patch import Patch, bytes_of, read_patch, save_patch

__all__ = [
    "Entry",
    "Header",
    "Journal",
    "Patch",
    "Search",
    "Undone",
    "Write",
    "bytes_of",
    "checksums",
    "plan",
    "read_header",
    "read_patch",
    "remaining",
    "save_patch",
]
