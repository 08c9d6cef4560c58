"""Edits in the forms that others read: a LoRA adapter, a whole checkpoint."""

from __future__ import annotations

from alphaedit_plugin.export.full import dtype_note, save_checkpoint
from alphaedit_plugin.export.lowrank import LowRank, factorise
from alphaedit_plugin.export.peft import save_adapter

__all__ = ["LowRank", "dtype_note", "factorise", "save_adapter", "save_checkpoint"]
