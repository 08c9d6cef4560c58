"""Loading checkpoints with the classes of Transformers, never with code from the checkpoint."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from alphaedit_plugin.common.errors import ModelError


def pretrained(kind: Any, path: str, **settings: Any) -> Any:
    """``kind.from_pretrained``, without running the checkpoint's code or asking to.

    Args:
        kind: one of Transformers' ``Auto…`` classes.
        path: a folder or hub name.
        settings: further arguments.

    Raises:
        ModelError: the checkpoint needs its custom code.
    """
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **settings)
    except ValueError:
        if not _has_code(path):
            raise
    raise ModelError(
        f"{path!r} needs custom code (auto_map), which is never run from here: read it, load "
        "model and tokenizer in Python with trust_remote_code=True, and pass the pair to "
        "NullSpaceEditor.from_pretrained((model, tokenizer), …)"
    )


def _has_code(path: str) -> bool:
    configs: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        configs.append(PretrainedConfig.get_config_dict(path)[0])
    with suppress(OSError, ValueError):
        configs.append(get_tokenizer_config(path))
    return any("auto_map" in one for one in configs)
