"""Models inside others: torch.compile's are looked through, peft's are refused."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from alphaedit_plugin.common.errors import ModelError


def unwrapped(model: Any) -> Any:
    """The model that ``torch.compile`` was given, whose weights the compiled one shares, or itself.

    Raises:
        ModelError: peft holds the model, or parts of it are compiled: their hooks never run.
    """
    while _is(model, "torch._dynamo", "OptimizedModule"):
        model = model._orig_mod
    if _is(model, "peft", "PeftModel", "PeftMixedModel"):
        raise ModelError(
            f"{type(model).__name__} holds the model beside adapters: merge them with "
            "model.merge_and_unload(), or wrap model.get_base_model()"
        )
    for name, module in model.named_modules():
        if _is(module, "torch._dynamo", "OptimizedModule"):
            raise ModelError(
                f"{name} was compiled by torch.compile, and nothing can look into it: edit the "
                "model first, and compile then"
            )
    return model


def adapted(module: nn.Module) -> bool:
    """Whether one of peft's adapters has taken the place of a layer."""
    return _is(module, "peft.tuners.tuners_utils", "BaseTunerLayer")


def _is(thing: Any, package: str, *names: str) -> bool:
    """``isinstance`` of classes of a package that is slow to import, or optional."""
    loaded = sys.modules.get(package)  # nobody has an object of a package that was never imported
    return isinstance(thing, tuple(getattr(loaded, name) for name in names if loaded is not None))


class NoTokenizer:
    """Stands for a tokenizer that was not given; whoever needs it is told so.

    Raises:
        ModelError: on any use.
    """

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Nothing can be tokenised."""
        raise ModelError(
            "the model was wrapped without its tokenizer, which is needed here: "
            "EditableModel.wrap(model, tokenizer)"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # copying and pickling ask for what need not be there
        return self()
