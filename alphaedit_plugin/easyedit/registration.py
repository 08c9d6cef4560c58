"""`register` and `unregister`: the plug-in's way into a running EasyEdit, and out again."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.easyedit.host import (
    METHODS,
    HostMethod,
    algorithms,
    batch_editor,
    copies,
    editor_class,
    hparams_classes,
    import_host,
    is_host,
    methods_of,
)
from alphaedit_plugin.easyedit.hparams import KEYS, NullSpaceFlag
from alphaedit_plugin.easyedit.projection import ModelState, apply_with_flag
from alphaedit_plugin.easyedit.prune_rect import NATIVE, apply_native
from alphaedit_plugin.nullspace.projector import Projector

Apply = Callable[..., Any]
MARK = "_alphaedit_registration"  # on the functions we put into the host: how to take them out


@dataclass
class Registration:
    """What `register` changed in the host, and the state of the models edited since.

    Attributes:
        algorithms: the host's own functions, by method.
        constructors: the host's own ``__init__``, by hparams class; of its editor, too.
        batchable: its test of which methods take batches, as its class holds it.
        states: by model, gone with the model; all copies share them, as each may edit it.
        lock: one edit at a time, as an edit replaces functions of the host's modules; shared, too.
    """

    algorithms: dict[str, Apply] = field(default_factory=dict)
    constructors: dict[Any, Callable[..., None]] = field(default_factory=dict)
    batchable: Any = None
    states: WeakKeyDictionary[Any, ModelState] = field(default_factory=WeakKeyDictionary)
    lock: AbstractContextManager[Any] = field(default_factory=RLock)


@dataclass(frozen=True)
class Coverage:
    """Which of the host's methods take the flag.

    Attributes:
        supported: these do.
        unsupported: these refuse it.
    """

    supported: tuple[str, ...]
    unsupported: tuple[str, ...]


def register() -> Coverage:
    """Give the host's locate-then-edit methods the null-space flag; twice is harmless.

    Every copy of the host takes it, whatever its name and whenever it is imported. Editors that
    exist already stay as they are: the host looks its function up when an editor is made.

    Raises:
        HostError: there is no host, or it cannot be imported.
    """
    import_host()
    coverages = [_register(package) for package in copies()]
    if not any(isinstance(finder, Newcomers) for finder in sys.meta_path):
        sys.meta_path.insert(0, Newcomers())
    return coverages[0]


def _register(package: str) -> Coverage:
    known = algorithms(package)
    supported = {method.name: method for method in methods_of(package)}
    if _current(package) is None:
        # Looked up first: a host that lacks a part is refused before anything in it is changed.
        kinds = [method.hparams_class() for method in supported.values()]
        batches, editor = batch_editor(package), editor_class(package)
        others = (other for name in copies() if (other := _current(name)) is not None)
        shared = next(others, Registration())
        registration = Registration(dict(known), states=shared.states, lock=shared.lock)
        for name, apply in registration.algorithms.items():
            known[name] = (
                _flagged(registration, supported[name], apply)
                if name in supported
                else _refusing(registration, name, apply)
            )
        for kind in kinds:
            _admit_keys(registration, kind)
        for kind in hparams_classes(package):
            if kind not in kinds:
                _refuse_keys(registration, kind)
        _add_native(registration, known, batches)
        _name_models(registration, editor)
    able = (*supported, *(kind.ALGORITHM for kind in NATIVE))
    return Coverage(able, tuple(name for name in known if name not in able))


def unregister() -> None:
    """Put everything in the host back exactly; without a registration nothing happens.

    Raises:
        HostError: there is no host, or it cannot be imported.
    """
    import_host()
    sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, Newcomers)]
    for package in copies():
        _unregister(package)


def _unregister(package: str) -> None:
    registration, known = _current(package), algorithms(package)
    if registration is None:
        return
    for kind in NATIVE:
        known.pop(kind.ALGORITHM, None)
    known.update(registration.algorithms)
    batch_editor(package).is_batchable_method = registration.batchable
    for hparams_class, constructor in registration.constructors.items():
        hparams_class.__init__ = constructor


def newcomers() -> Newcomers:
    """What listens for copies that are imported later, after `register`."""
    return next(finder for finder in sys.meta_path if isinstance(finder, Newcomers))


def is_registered() -> bool:
    """Whether a copy of the host has the flag."""
    return any(_current(package) is not None for package in copies())


def _current(package: str) -> Registration | None:
    known = algorithms(package).values()
    return next((getattr(apply, MARK) for apply in known if hasattr(apply, MARK)), None)


@dataclass(eq=False)
class Newcomers(MetaPathFinder):
    """Registers copies of the host that are imported after `register`.

    Attributes:
        listeners: told the name of each.
    """

    listeners: list[Callable[[str], None]] = field(default_factory=list)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, and registered once it has run."""
        if not is_host(name):
            return None
        others = (one for one in sys.meta_path if not isinstance(one, Newcomers))
        found = (one.find_spec(name, path, target) for one in others if hasattr(one, "find_spec"))
        spec = next((one for one in found if one is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                if name in copies():
                    _register(name)
                    for listener in self.listeners:
                        listener(name)

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _flagged(registration: Registration, method: HostMethod, apply: Apply) -> Apply:
    """``apply``, which projects where its hparams say so."""
    signature = inspect.signature(apply)
    rest = next((name for name, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD), "")

    @functools.wraps(apply)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = dict(signature.bind(*args, **kwargs).arguments)
        extra = given.pop(rest, {})
        model, tok, requests, hparams = (given.pop(name) for name in list(given)[:4])
        flag = NullSpaceFlag.of(hparams)
        with registration.lock:
            if not flag.null_space:
                return apply(*args, **kwargs)
            state = registration.states.setdefault(model, ModelState())
            call = (model, tok, requests, hparams)
            return apply_with_flag(state, flag, method, apply, call, {**given, **extra})

    setattr(wrapper, MARK, registration)
    return wrapper


def _refusing(registration: Registration, name: str, apply: Apply) -> Apply:
    """``apply``, which refuses the flag rather than ignoring it."""

    @functools.wraps(apply)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if any(getattr(value, "null_space", False) for value in [*args, *kwargs.values()]):
            raise _unsupported(name)
        return apply(*args, **kwargs)

    setattr(wrapper, MARK, registration)
    return wrapper


def _unsupported(name: str) -> ConfigError:
    supported = ", ".join([*(m.name for m in METHODS), *(kind.ALGORITHM for kind in NATIVE)])
    return ConfigError(f"null_space is not for {name}: it projects {supported}")


def _add_native(registration: Registration, known: dict[str, Apply], batches: Any) -> None:
    """Add PRUNE and RECT, and admit them where the host lists who takes batches."""
    registration.batchable = vars(batches)["is_batchable_method"]
    before, names = batches.is_batchable_method, {kind.ALGORITHM for kind in NATIVE}
    batches.is_batchable_method = staticmethod(lambda name: name in names or before(name))

    def wrapper(
        model: Any, tok: Any, requests: Any, hparams: Any, copy: bool = False, *_: Any, **__: Any
    ) -> Any:
        if copy:
            raise ConfigError(f"{hparams.alg_name} edits the model it is given: leave copy= out")
        flag = NullSpaceFlag.of(hparams)
        state = registration.states.setdefault(model, ModelState())

        def projectors_of(weights: list[str]) -> dict[str, Projector]:
            return state.projectors_of(flag, (model, tok, hparams), weights)

        with registration.lock:
            return apply_native(state.runs, projectors_of, (model, tok, requests, hparams))

    setattr(wrapper, MARK, registration)
    for kind in NATIVE:
        known[kind.ALGORITHM] = wrapper


def _name_models(registration: Registration, editor: Any) -> None:
    """Give an editor made from a ``(model, tokenizer)`` pair the model's name.

    The host's evaluation asks an editor's ``model_name`` for its letters and fails on a pair.
    """
    constructor = editor.__init__
    registration.constructors[editor] = constructor

    @functools.wraps(constructor)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        constructor(self, *args, **kwargs)
        if not isinstance(self.model_name, str):
            self.model_name = str(getattr(self.model, "name_or_path", "") or "model")

    editor.__init__ = __init__


def _admit_keys(registration: Registration, hparams_class: Any) -> None:
    """Let a host's hparams class take our keys, from YAML and in Python."""
    constructor = hparams_class.__init__
    registration.constructors[hparams_class] = constructor

    @functools.wraps(constructor)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        ours = {key: kwargs.pop(key) for key in KEYS if key in kwargs}
        constructor(self, *args, **kwargs)
        for key, value in ours.items():
            setattr(self, key, value)

    hparams_class.__init__ = __init__


def _refuse_keys(registration: Registration, hparams_class: Any) -> None:
    """Let the hparams class of another method say that it does not take our keys."""
    constructor = hparams_class.__init__
    registration.constructors[hparams_class] = constructor

    @functools.wraps(constructor)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if any(key in kwargs for key in KEYS):
            raise _unsupported(str(kwargs.get("alg_name", hparams_class.__name__)))
        constructor(self, *args, **kwargs)

    hparams_class.__init__ = __init__
