"""Where a model keeps what an edit touches, and how to look inside while it runs.

The layout of a family is found by ``config.model_type`` (`families`), never by the model's name or
path; of an unknown one by running it (`discover`). Weights are seen *oriented*,
``(d_out, d_in)``, whatever their module's storage.
"""

from __future__ import annotations

from alphaedit_plugin.models.editable import EditableModel, check_size, dtype_name
from alphaedit_plugin.models.families import LAYOUTS, Layout, check_config
from alphaedit_plugin.models.hooks import (
    StopForward,
    full_precision,
    head_only_at,
    hidden_of,
    hooked,
    inference,
    per_token,
    with_hidden,
)

__all__ = [
    "LAYOUTS",
    "EditableModel",
    "Layout",
    "StopForward",
    "check_config",
    "check_size",
    "dtype_name",
    "full_precision",
    "head_only_at",
    "hidden_of",
    "hooked",
    "inference",
    "per_token",
    "with_hidden",
]
