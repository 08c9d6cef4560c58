"""Models wrapped by others: torch.compile is unwrapped, peft is refused."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from alphaedit_plugin.common.errors import ModelError


def unwrapped(model: Any) -> Any:
    """The model inside a compiled one, which shares its weights, or the model itself.

    Raises:
        ModelError: a peft model, or one with compiled modules: hooks inside them never run.
    """
    while _is(model, "torch._dynamo", "OptimizedModule"):
        model = model._orig_mod
    if _is(model, "peft", "PeftModel", "PeftMixedModel"):
        raise ModelError(
            f"{type(model).__name__} contains the model and adapters: merge them with "
            "model.merge_and_unload(), or wrap model.get_base_model()"
        )
    for name, module in model.named_modules():
        if _is(module, "torch._dynamo", "OptimizedModule"):
            raise ModelError(
                f"{name} was compiled by torch.compile, so hooks in it do not run: edit the model "
                "first, then compile"
            )
    return model


def adapted(module: nn.Module) -> bool:
    """Whether a peft adapter has replaced a layer."""
    return _is(module, "peft.tuners.tuners_utils", "BaseTunerLayer")


def _is(thing: Any, package: str, *names: str) -> bool:
    """``isinstance`` for classes of a package that is slow to import, or optional."""
    loaded = sys.modules.get(package)  # without it there is no such object
    return isinstance(thing, tuple(getattr(loaded, name) for name in names if loaded is not None))


class NoTokenizer:
    """Takes the place of a missing tokenizer: any use raises ModelError."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Always raises."""
        raise ModelError(
            "the model was wrapped without its tokenizer, which is needed here: "
            "EditableModel.wrap(model, tokenizer)"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # copy and pickle probe for optional methods
        return self()
