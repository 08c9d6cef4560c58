"""Finding EasyEdit, and naming the parts of it that the plug-in touches.

EasyEdit is no package: users clone it. Nothing outside this folder imports ``easyeditor``, and
nothing here does so before it is asked to. Modules are looked up by their full names, as the
host's star imports shadow attributes on the way.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.common.errors import AlphaEditError
from alphaedit_plugin.models.offload import META

HOME = "EASYEDIT_HOME"
HOST = "easyeditor"
ALGORITHMS = ".util.alg_dict"  # of the package: the module that holds its methods


class HostError(AlphaEditError):
    """EasyEdit is missing, cannot be imported, or does not work as it did when this was written."""


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
        package: the copy of the host that it is of, see `copies`.
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


METHODS = (
    HostMethod("ROME", "rome.rome_main", "ROMEHyperParams", rank_one=True),
    HostMethod("R-ROME", "r_rome.r_rome_main", "R_ROMEHyperParams", rank_one=True),
    HostMethod("MEMIT", "memit.memit_main", "MEMITHyperParams", solves=True),
    HostMethod("MEMIT-FE", "memit_FE.memit_FE_main", "MEMITFEHyperParams"),
    HostMethod("EMMET", "emmet.emmet_main", "EMMETHyperParams"),
    HostMethod("PMET", "pmet.pmet_main", "PMETHyperParams"),
)


def clone_around(*places: Path) -> Path | None:
    """The first of some folders that is a clone of EasyEdit."""
    return next((p for p in places if (p / "easyeditor" / "__init__.py").is_file()), None)


def find_clone() -> Path | None:
    """The clone that ``$EASYEDIT_HOME`` names or, without, that the shell is in.

    Raises:
        HostError: it names another folder.
    """
    home = os.environ.get(HOME)
    if not home:
        return clone_around(Path.cwd(), *Path.cwd().parents)
    named = Path(home).expanduser().resolve()
    if clone_around(named) is None:
        raise HostError(f"{HOME} is {home}, where there is no folder easyeditor: fix the path")
    return named


def host_folder() -> Path | None:
    """The folder that holds ``easyeditor``, by the same rules as `import_host`."""
    known = [*copies(), *([HOST] if HOST in sys.modules else [])]
    if known:
        file = getattr(sys.modules[known[0]], "__file__", None)
        return Path(file).parents[1] if file else None
    spec = importlib.util.find_spec(HOST)
    if spec is not None:
        return Path(spec.origin).parents[1] if spec.origin else None
    try:
        return find_clone()
    except HostError:  # `import_host` says it
        return None


def package_of(error: BaseException | None) -> str:
    """The package that an `ImportError` is about; empty for other errors."""
    name = error.name if isinstance(error, ImportError) else None
    return (name or "").partition(".")[0]


def unsuited(package: str, clone: Path | None) -> tuple[str, str] | None:
    """Whether a package is there in another version than the host was written for.

    Args:
        package: its name.
        clone: of the host, whose ``requirements.txt`` says what it was written for.

    Returns:
        What is so, and the requirement; ``None`` where it fits, is missing, or no version is named.
    """
    pins = {canonicalize_name(pin.name): pin for pin in requirements(clone)}
    pin = pins.get(canonicalize_name(package))
    try:
        version = importlib.metadata.version(package) if pin else None
    except importlib.metadata.PackageNotFoundError:
        return None
    if pin is None or version is None or pin.specifier.contains(version, prereleases=True):
        return None
    return f"{package} {version} is here, and this EasyEdit was written for {pin}", str(pin)


def requirements(clone: Path | None) -> list[Requirement]:
    """What the clone's ``requirements.txt`` asks for by name; nothing without a file."""
    try:
        text = "" if clone is None else (clone / "requirements.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    found: list[Requirement] = []
    for line in text.splitlines():
        with suppress(InvalidRequirement):  # empty, or one of pip's options
            found.append(Requirement(line.partition("#")[0].strip()))
    return found


def copies() -> list[str]:
    """The names of all copies of the host that are imported.

    Who puts the folder above the clone on the path has one named ``EasyEdit.easyeditor``, which
    shares nothing with another.
    """
    return [
        name for name in list(sys.modules) if is_host(name) and f"{name}{ALGORITHMS}" in sys.modules
    ]


def is_host(name: str) -> bool:
    """Whether a module of this name may be the host's package."""
    return name.rpartition(".")[2] == HOST


def import_host() -> ModuleType:
    """The host's package, if it is not imported in any name.

    That is: ``easyeditor``, installed, on ``sys.path``, or the clone that `find_clone` finds.

    Raises:
        HostError: it is nowhere, lacks a package it imports, or was written for another version of
            one; the message says what to do.
    """
    known = copies()
    if known:
        return sys.modules[known[0]]
    if HOST not in sys.modules and importlib.util.find_spec(HOST) is None:
        clone = find_clone()
        if clone is None:
            raise HostError(
                "EasyEdit is not here: git clone https://github.com/zjunlp/EasyEdit, and set "
                f"{HOME} to that folder (or run from inside it)"
            )
        sys.path.insert(0, str(clone))
    try:
        return importlib.import_module(HOST)
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        other = unsuited(package_of(error), host_folder())
        why = f"{error} ({other[0]})" if other else str(error)
        raise HostError(
            f"EasyEdit is here but cannot be imported: {why}; alphaedit doctor says what to install"
        ) from error


def algorithms(package: str = HOST) -> dict[str, Callable[..., Any]]:
    """A copy's one dictionary of methods, shared by all its editors."""
    return importlib.import_module(package + ALGORITHMS).ALG_DICT


def batch_editor(package: str = HOST) -> Any:
    """A copy's class that says which methods take batches."""
    return importlib.import_module(f"{package}.editors.batch_editor").BatchEditor


def editor_class(package: str = HOST) -> Any:
    """A copy's editor of text models."""
    return importlib.import_module(f"{package}.editors.editor").BaseEditor


def methods_of(package: str = HOST) -> tuple[HostMethod, ...]:
    """The methods of a copy that take the flag."""
    return tuple(replace(method, package=package) for method in METHODS)


def hparams_classes(package: str = HOST) -> list[Any]:
    """The hparams classes of all methods that a copy has imported."""
    found = [importlib.import_module(f"{package}.util.hparams").HyperParams]
    for kind in found:  # grows on the way
        found += [heir for heir in kind.__subclasses__() if heir not in found]
    return [kind for kind in found[1:] if "__init__" in vars(kind)]


def refuse_offloaded(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse weights that the host would write in vain: what it adds to them is lost.

    Args:
        parameters: by name, as ``model.named_parameters()`` gives them.

    Raises:
        HostError: one of them is offloaded, or has no value.
    """
    for name, parameter in parameters:
        if parameter.device == META:
            raise HostError(
                f"{name} is offloaded, and EasyEdit edits only what stays on a device: leave "
                "device_map away, give it more memory, or edit with host=native"
            )


def second_moment_of(model: Any, tokenizer: Any, module: str, hparams: Any) -> Any:
    """``C`` of a module's inputs, ``(d_in, d_in)``, from the host's own statistics.

    The host finds what its user computed before in ``hparams.stats_dir``, or computes it.
    """
    statistics = importlib.import_module(f"{import_host().__name__}.models.rome.layer_stats")
    found = statistics.layer_stats(
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
    moment = found.mom2.moment()
    size, layer = len(moment), model.get_submodule(module)
    weight = layer.weight
    if size != weight.shape[0 if isinstance(layer, Conv1D) else 1]:
        raise HostError(
            f"the second moment of {module} in {hparams.stats_dir} is for keys of {size} "
            f"dimensions, but this model's weight is {list(weight.shape)}: it was made for another "
            "model"
        )
    return moment
