"""The parts of EasyEdit that the plug-in touches.

Modules are looked up by their full names, as the host's star imports shadow attributes.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.easyedit.find_host import ALGORITHMS, HOST, HostError, import_host
from alphaedit_plugin.models.offload import META


@dataclass(frozen=True)
class HostMethod:
    """One of the host's locate-then-edit methods.

    Attributes:
        name: in ``hparams.alg_name`` and the host's dictionary of methods.
        module: below ``easyeditor.models``: where its apply and execute functions are.
        hparams: its hparams class, in the same module.
        rank_one: it writes outer products of key and value directions, ``(d_in, d_out)``, where
            the others write ``(d_out, d_in)``; and its layers in ascending order.
        solves: AlphaEdit's closed form can replace its own least squares.
        package: the copy of the host that it belongs to, see `copies`.
    """

    name: str
    module: str
    hparams: str
    rank_one: bool = False
    solves: bool = False
    package: str = HOST

    def load(self) -> ModuleType:
        """The host's module of this method."""
        return importlib.import_module(f"{self.package}.models.{self.module}")

    def hparams_class(self) -> Any:
        """The host's hparams class of this method.

        Raises:
            HostError: this version of the host has none.
        """
        try:
            return getattr(self.load(), self.hparams)
        except (AttributeError, ImportError) as error:
            raise HostError(f"this version of EasyEdit is not supported: {error}") from None

    def weight_names(self, hparams: Any) -> list[str]:
        """The edited parameters, in the order in which they are written."""
        layers = sorted(hparams.layers) if self.rank_one else list(hparams.layers)
        templates = getattr(hparams, "rewrite_module_tmps", None) or [hparams.rewrite_module_tmp]
        return [f"{template.format(layer)}.weight" for layer in layers for template in templates]


HOST_METHODS = (
    HostMethod("ROME", "rome.rome_main", "ROMEHyperParams", rank_one=True),
    HostMethod("R-ROME", "r_rome.r_rome_main", "R_ROMEHyperParams", rank_one=True),
    HostMethod("MEMIT", "memit.memit_main", "MEMITHyperParams", solves=True),
    HostMethod("MEMIT-FE", "memit_FE.memit_FE_main", "MEMITFEHyperParams"),
    HostMethod("EMMET", "emmet.emmet_main", "EMMETHyperParams"),
    HostMethod("PMET", "pmet.pmet_main", "PMETHyperParams"),
)


@dataclass(frozen=True)
class HostCall:
    """One call of a method, in the host's convention.

    Attributes:
        requests: dictionaries with ``prompt``, ``subject`` and ``target_new``.
        hparams: an object of the method's hparams class.
        options: all other arguments, by name.
    """

    model: Any
    tokenizer: Any
    requests: Sequence[Mapping[str, Any]]
    hparams: Any
    options: Mapping[str, Any]

    @classmethod
    def of(cls, apply: Callable[..., Any], args: Sequence[Any], kwargs: Any) -> HostCall:
        """The arguments of ``apply``, whose first four differ in name from method to method."""
        signature = inspect.signature(apply)
        given = dict(signature.bind(*args, **kwargs).arguments)
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        model, tokenizer, requests, hparams = (given.pop(name) for name in list(given)[:4])
        return cls(model, tokenizer, requests, hparams, given)


def algorithms(package: str = HOST) -> dict[str, Callable[..., Any]]:
    """A copy's one dictionary of methods, shared by all its editors."""
    return importlib.import_module(package + ALGORITHMS).ALG_DICT


def methods_of(package: str = HOST) -> dict[str, HostMethod]:
    """The methods of a copy that take the flag, by name."""
    return {method.name: replace(method, package=package) for method in HOST_METHODS}


def hparams_classes(package: str = HOST) -> list[Any]:
    """The hparams classes of all methods that a copy has imported."""
    classes = [importlib.import_module(f"{package}.util.hparams").HyperParams]
    for kind in classes:  # grows on the way
        classes += [child for child in kind.__subclasses__() if child not in classes]
    return [kind for kind in classes[1:] if "__init__" in vars(kind)]


def refuse_offloaded(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse weights that the host would write in vain: what it adds to them is lost.

    Raises:
        HostError: one of them is offloaded, or has no value.
    """
    for name, parameter in parameters:
        if parameter.device == META:
            raise HostError(
                f"{name} is offloaded, and EasyEdit edits only what stays on a device: remove "
                "device_map, give it more memory, or edit with host=native"
            )


def second_moment_of(model: Any, tokenizer: Any, module: str, hparams: Any) -> Tensor:
    """``C (d_in, d_in)`` of a module's inputs, from the host's own statistics.

    The host finds what its user computed before in ``hparams.stats_dir``, or computes it.

    Raises:
        HostError: the statistics are for keys of another size.
    """
    statistics = importlib.import_module(f"{import_host().__name__}.models.rome.layer_stats")
    stats = statistics.layer_stats(
        model,
        tokenizer,
        module,
        hparams.stats_dir,
        hparams.mom2_dataset,
        to_collect=["mom2"],
        sample_size=hparams.mom2_n_samples,
        precision=hparams.mom2_dtype,
        hparams=hparams,
    )
    moment: Tensor = stats.mom2.moment()
    layer = model.get_submodule(module)
    if len(moment) != layer.weight.shape[0 if isinstance(layer, Conv1D) else 1]:
        raise HostError(
            f"the second moment of {module} in {hparams.stats_dir} is for keys of {len(moment)} "
            f"dimensions, but this model's weight is {list(layer.weight.shape)}: it was made for "
            "another model"
        )
    return moment
