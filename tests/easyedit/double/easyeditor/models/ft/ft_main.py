from __future__ import annotations

from typing import Any

from torch import Tensor


def apply_ft_to_model(
    model: Any, tok: Any, requests: list[Any], hparams: Any, **kwargs: Any
) -> tuple[Any, dict[str, Tensor]]:
    """A method that the plug-in does not know; it changes nothing."""
    return model, {}
