"""`register` and `unregister`: the plug-in's way into a running EasyEdit, and out again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from alphaedit_plugin.easyedit.flag import KEYS, NullSpaceFlag
from alphaedit_plugin.easyedit.history import KeyHistory
from alphaedit_plugin.easyedit.host import (
    METHODS,
    HostMethod,
    algorithms,
    import_host,
    second_moment_of,
)
from alphaedit_plugin.easyedit.wrapping import ClosedForm, apply_projected, edited_weights
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.projector import Projector, fit_projectors, load_projectors
from alphaedit_plugin.statistics import SecondMoment

Apply = Callable[..., Any]
MARK = "_alphaedit_registration"  # on the functions we put into the host: how to take them out


@dataclass
class ModelState:
    """What one model's edits have in common.

    Attributes:
        projectors: by weight name and cut, as fitted to the host's statistics.
        histories: by the edited weights.
    """

    projectors: dict[tuple[str, str, float], Projector] = field(default_factory=dict)
    histories: dict[tuple[str, ...], KeyHistory] = field(default_factory=dict)


@dataclass
class Registration:
    """What `register` changed in the host, and the state of the models edited since.

    Attributes:
        algorithms: the host's own functions, by method.
        constructors: the host's own ``__init__``, by hparams class.
        states: by model, gone with the model.
    """

    algorithms: dict[str, Apply] = field(default_factory=dict)
    constructors: dict[Any, Callable[..., None]] = field(default_factory=dict)
    states: WeakKeyDictionary[Any, ModelState] = field(default_factory=WeakKeyDictionary)


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

    Editors that exist already stay as they are: the host looks its function up when an editor is
    made.

    Raises:
        HostError: there is no host, or it cannot be imported.
    """
    import_host()
    known, supported = algorithms(), {method.name: method for method in METHODS}
    if _current() is None:
        registration = Registration(dict(known))
        for name, apply in registration.algorithms.items():
            known[name] = (
                _flagged(registration, supported[name], apply)
                if name in supported
                else _refusing(registration, name, apply)
            )
        for method in METHODS:
            _admit_keys(registration, method.hparams_class())
    return Coverage(
        tuple(name for name in known if name in supported),
        tuple(name for name in known if name not in supported),
    )


def unregister() -> None:
    """Put everything in the host back exactly; without a registration nothing happens.

    Raises:
        HostError: there is no host, or it cannot be imported.
    """
    import_host()
    registration = _current()
    if registration is None:
        return
    algorithms().update(registration.algorithms)
    for hparams_class, constructor in registration.constructors.items():
        hparams_class.__init__ = constructor


def _current() -> Registration | None:
    return next(
        (getattr(apply, MARK) for apply in algorithms().values() if hasattr(apply, MARK)), None
    )


def _flagged(registration: Registration, method: HostMethod, apply: Apply) -> Apply:
    """``apply``, which projects where its hparams say so."""

    @functools.wraps(apply)
    def wrapper(model: Any, tok: Any, requests: Any, hparams: Any, **options: Any) -> Any:
        flag = NullSpaceFlag.of(hparams)
        if not flag.null_space:
            return apply(model, tok, requests, hparams, **options)
        if options.pop("copy", False):
            raise ConfigError(
                "null_space edits the model it is given: copy it first, not with copy="
            )
        solves = flag.solves(method.name, method.solves)
        state = registration.states.setdefault(model, ModelState())
        weights = edited_weights(method, model, hparams)
        projectors = _projectors(state, flag, (model, tok, hparams), list(weights))
        closed_form = None
        if solves:
            history = state.histories.setdefault(tuple(weights), KeyHistory())
            history.rewind(weights)
            closed_form = ClosedForm(
                method.load(), list(weights), projectors, float(flag.null_space_l2), history
            )
        # EMMET empties its copy of the weights without this, and the host then restores nothing.
        options["keep_original_weight"] = True
        return apply_projected(
            method, apply, projectors, closed_form, (model, tok, requests, hparams), options
        )

    setattr(wrapper, MARK, registration)
    return wrapper


def _refusing(registration: Registration, name: str, apply: Apply) -> Apply:
    """``apply``, which refuses the flag rather than ignoring it."""

    @functools.wraps(apply)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        if any(getattr(value, "null_space", False) is True for value in given):
            supported = ", ".join(method.name for method in METHODS)
            raise ConfigError(f"null_space is not for {name}: it projects {supported}")
        return apply(*args, **kwargs)

    setattr(wrapper, MARK, registration)
    return wrapper


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


def _projectors(
    state: ModelState, flag: NullSpaceFlag, host: tuple[Any, Any, Any], names: list[str]
) -> dict[str, Projector]:
    """One projector per weight: from a file, or fitted to the host's statistics and kept."""
    model, tokenizer, hparams = host
    cut = flag.cut
    if flag.projector_path is not None:
        view = EditableModel.wrap(model, tokenizer)
        layers = {view.weight_name(layer): layer for layer in hparams.layers}
        loaded = load_projectors(view, hparams.layers, Path(flag.projector_path).expanduser())
        return {name: loaded[layers[name]] for name in names}
    keys = {name: (name, cut.rule.value, cut.value) for name in names}
    for number, name in enumerate(names):
        if keys[name] not in state.projectors:
            module = name.removesuffix(".weight")
            mean = second_moment_of(model, tokenizer, module, hparams).double()
            fitted = fit_projectors({number: SecondMoment(mean, 1)}, cut)
            state.projectors[keys[name]] = fitted[number]
    return {name: state.projectors[keys[name]] for name in names}
