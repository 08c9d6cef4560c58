"""Loading checkpoints with the classes of Transformers, and never with code of their own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from alphaedit_plugin.common.errors import ModelError


def pretrained(kind: Any, path: str, **settings: Any) -> Any:
    """``kind.from_pretrained``, which runs no code that comes with the checkpoint and asks nobody.

    Args:
        kind: one of Transformers' ``Auto…`` classes.
        path: a folder or hub name.
        settings: what else it is told.

    Raises:
        ModelError: the checkpoint needs code of its own.
    """
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **settings)
    except ValueError:
        if not _brings_code(path):
            raise
    raise ModelError(
        f"{path!r} brings code of its own (auto_map), which is never run from here: read it, load "
        "model and tokenizer in Python with trust_remote_code=True, and pass the pair to "
        "NullSpaceEditor.from_pretrained((model, tokenizer), …)"
    )


def _brings_code(path: str) -> bool:
    found: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        found.append(PretrainedConfig.get_config_dict(path)[0])
    with suppress(OSError, ValueError):
        found.append(get_tokenizer_config(path))
    return any("auto_map" in one for one in found)
