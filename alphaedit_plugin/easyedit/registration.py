"""`register` and `unregister`: the plug-in's way into a running EasyEdit, and out again."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType
from typing import Any
from weakref import WeakSet

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.easyedit.find_host import copies, import_host, is_host
from alphaedit_plugin.easyedit.host import (
    HOST_METHODS,
    HostCall,
    HostMethod,
    algorithms,
    hparams_classes,
    methods_of,
)
from alphaedit_plugin.easyedit.hparams import KEYS, Engine, NullSpaceFlag
from alphaedit_plugin.easyedit.model_state import ModelState
from alphaedit_plugin.easyedit.our_engine import OurAlgorithm
from alphaedit_plugin.easyedit.patch_loop import apply_projected
from alphaedit_plugin.easyedit.prune_rect import our_hparams_classes
from alphaedit_plugin.methods.base import METHODS

log = logging.getLogger(__name__)

Apply = Callable[..., Any]
ENGINE = "null_space_engine"
STATE = "_alphaedit_state"  # the attribute of a model that holds its `ModelState`


def register(engine: str | None = None) -> tuple[str, ...]:
    """Give the host's locate-then-edit methods the null-space flag; twice is harmless.

    Every copy of the host takes it, whatever its name and whenever it is imported. Editors that
    exist already stay as they are: the host looks its function up when an editor is made.

    Args:
        engine: ``null_space_engine`` of ROME and MEMIT where hparams have none: ``host``, or
            ``native``; ``None`` leaves it as it is.

    Returns:
        The names of the methods that take the flag; all others refuse it.

    Raises:
        HostError: there is no host, or it cannot be imported or lacks a part.
        ConfigError: there is no such engine.
    """
    defaults = {} if engine is None else {ENGINE: engine}
    NullSpaceFlag.read(defaults)
    import_host()
    registration = current() or Registration.begin()
    registration.defaults |= defaults
    try:
        for package in copies():
            registration.add(package)
    except BaseException:
        if not registration.tables:
            unregister()
        raise
    return _supported()


def unregister() -> None:
    """Put everything in the host back exactly; without a registration nothing happens."""
    registration = current()
    if registration is not None:
        registration.undo.close()


def current() -> Registration | None:
    """What `register` has set up, if it has."""
    return next((one for one in sys.meta_path if isinstance(one, Registration)), None)


@dataclass(eq=False)
class Registration(MetaPathFinder):
    """What `register` changed; as a finder of modules, it sees copies that are imported later.

    Attributes:
        undo: puts everything back.
        tables: the dictionaries of methods that were changed, one per copy.
        models: that were edited; the state of each goes with it, and all copies share it.
        lock: one edit at a time, as an edit replaces functions of the host's modules.
        defaults: of keys that hparams do not have.
        flags: set in all hparams that are made, with a warning where these say otherwise.
        flagged: names of the hparams classes of which objects took `flags`.
    """

    undo: ExitStack = field(default_factory=ExitStack)
    tables: list[Any] = field(default_factory=list)
    models: WeakSet[Any] = field(default_factory=WeakSet)
    lock: Any = field(default_factory=RLock)
    defaults: dict[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    flagged: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls) -> Registration:
        """Start to listen for copies of the host; nothing in one has changed yet."""
        registration = cls()
        sys.meta_path.insert(0, registration)
        registration.undo.callback(sys.meta_path.remove, registration)
        registration.undo.callback(registration._forget_models)
        for kind in our_hparams_classes().values():
            registration._wrap_constructor(kind, registration._take_keys)
        return registration

    def add(self, package: str) -> None:
        """Change one copy of the host.

        Raises:
            HostError: it lacks a part; nothing in it has changed then.
        """
        table, methods = algorithms(package), methods_of(package)
        if any(table is known for known in self.tables):
            return
        kinds = [method.hparams_class() for method in methods.values()]
        batches = importlib.import_module(f"{package}.editors.batch_editor").BatchEditor
        editor = importlib.import_module(f"{package}.editors.editor").BaseEditor
        others = [kind for kind in hparams_classes(package) if kind not in kinds]
        self.tables.append(table)
        for name, apply in list(table.items()):
            self.undo.callback(table.__setitem__, name, apply)
            method = methods.get(name)
            table[name] = self._projecting(method, apply) if method else _refusing(name, apply)
        for name in our_hparams_classes():
            table[name] = self._ours(OurAlgorithm(name))
            self.undo.callback(table.pop, name, None)
        self._admit_batches(batches)
        for kind in kinds:
            self._wrap_constructor(kind, self._take_keys)
        for kind in others:
            self._wrap_constructor(kind, self._refuse_keys)
        self._wrap_constructor(editor, _name_model)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, registered once it has run."""
        if not is_host(name):
            return None
        others = (one for one in sys.meta_path if one is not self and hasattr(one, "find_spec"))
        specs = (one.find_spec(name, path, target) for one in others)
        spec = next((one for one in specs if one is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                if name in copies():
                    self.add(name)

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec

    def _state_of(self, model: Any) -> ModelState:
        self.models.add(model)
        state: ModelState = vars(model).setdefault(STATE, ModelState())
        return state

    def _forget_models(self) -> None:
        for model in self.models:
            vars(model).pop(STATE, None)

    def _projecting(self, method: HostMethod, apply: Apply) -> Apply:
        """``apply``, which projects, or leaves the work to us, where its hparams say so."""
        native = OurAlgorithm(method.name, method) if method.name.lower() in METHODS else None

        @functools.wraps(apply)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            call = HostCall.of(apply, args, kwargs)
            flag = NullSpaceFlag.of(call.hparams, self.defaults)
            with self.lock:
                if flag.null_space_engine is Engine.native:
                    if native is not None:
                        return native.apply(self._state_of(call.model), flag, call)
                    if hasattr(call.hparams, ENGINE):
                        raise ConfigError(f"{ENGINE}: native is for ROME and MEMIT: remove it")
                if not flag.null_space:
                    return apply(*args, **kwargs)
                return apply_projected(self._state_of(call.model), flag, method, apply, call)

        return wrapper

    def _ours(self, algorithm: OurAlgorithm) -> Apply:
        """A method that the host lacks, in its convention."""

        def apply(
            model: Any,
            tok: Any,
            requests: Any,
            hparams: Any,
            copy: Any = False,
            *_: Any,
            **__: Any,
        ) -> Any:
            call = HostCall(model, tok, requests, hparams, {"copy": copy})
            with self.lock:
                flag = NullSpaceFlag.of(hparams)
                return algorithm.apply(self._state_of(model), flag, call)

        return apply

    def _admit_batches(self, batches: Any) -> None:
        """Let our methods edit in batches: the host lists by name who does."""
        before, names = batches.is_batchable_method, list(our_hparams_classes())
        self.undo.callback(
            setattr, batches, "is_batchable_method", vars(batches)["is_batchable_method"]
        )
        batches.is_batchable_method = staticmethod(lambda name: name in names or before(name))

    def _wrap_constructor(
        self, kind: Any, build: Callable[[Any, Callable[..., None], dict[str, Any]], None]
    ) -> None:
        constructor = kind.__init__
        self.undo.callback(setattr, kind, "__init__", constructor)

        @functools.wraps(constructor)
        def __init__(made: Any, *args: Any, **kwargs: Any) -> None:
            build(made, functools.partial(constructor, made, *args), kwargs)

        kind.__init__ = __init__

    def _take_keys(
        self, made: Any, construct: Callable[..., None], settings: dict[str, Any]
    ) -> None:
        """Make hparams that may have our keys."""
        ours = {key: settings.pop(key) for key in KEYS if key in settings}
        for key, value in self.flags.items():
            if ours.get(key, value) != value:
                said = f"{key}: {ours[key]} of {type(made).__name__}"
                log.warning("--%s %s overrides %s", key, value, said)
        construct(**settings)
        for key, value in {**ours, **self.flags}.items():
            setattr(made, key, value)
        if self.flags:
            self.flagged.append(type(made).__name__)

    def _refuse_keys(
        self, made: Any, construct: Callable[..., None], settings: dict[str, Any]
    ) -> None:
        """Make hparams of a method that cannot take our keys."""
        if self.flags.get("null_space") or any(key in settings for key in KEYS):
            raise _unsupported(str(settings.get("alg_name", type(made).__name__)))
        construct(**settings)


def _name_model(made: Any, construct: Callable[..., None], settings: dict[str, Any]) -> None:
    """Give an editor made from a ``(model, tokenizer)`` pair the model's name.

    The host's evaluation looks for letters in an editor's ``model_name`` and fails on a pair.
    """
    construct(**settings)
    if not isinstance(made.model_name, str):
        made.model_name = str(getattr(made.model, "name_or_path", "") or "model")


def _refusing(name: str, apply: Apply) -> Apply:
    """``apply``, which refuses the flag rather than ignoring it."""

    @functools.wraps(apply)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if any(getattr(value, "null_space", False) for value in [*args, *kwargs.values()]):
            raise _unsupported(name)
        return apply(*args, **kwargs)

    return wrapper


def _unsupported(name: str) -> ConfigError:
    return ConfigError(f"null_space is not for {name}: it projects {', '.join(_supported())}")


def _supported() -> tuple[str, ...]:
    return *(method.name for method in HOST_METHODS), *our_hparams_classes()
