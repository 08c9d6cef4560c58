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
    batch_editor,
    editor_class,
    import_host,
    second_moment_of,
)
from alphaedit_plugin.easyedit.native import NATIVE, NativeRun, apply_native
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
        projectors: by weight name and source: a file, or a cut of some of the host's statistics.
        runs: of PRUNE and RECT.
        histories: by the edited weights.
    """

    projectors: dict[tuple[str, str], Projector] = field(default_factory=dict)
    runs: list[NativeRun] = field(default_factory=list)
    histories: dict[tuple[str, ...], KeyHistory] = field(default_factory=dict)


@dataclass
class Registration:
    """What `register` changed in the host, and the state of the models edited since.

    Attributes:
        algorithms: the host's own functions, by method.
        constructors: the host's own ``__init__``, by hparams class; of its editor, too.
        batchable: its test of which methods take batches, as its class holds it.
        states: by model, gone with the model.
    """

    algorithms: dict[str, Apply] = field(default_factory=dict)
    constructors: dict[Any, Callable[..., None]] = field(default_factory=dict)
    batchable: Any = None
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
        # Looked up first: a host that lacks a part is refused before anything in it is changed.
        kinds = [method.hparams_class() for method in METHODS]
        batches, editor = batch_editor(), editor_class()
        registration = Registration(dict(known))
        for name, apply in registration.algorithms.items():
            known[name] = (
                _flagged(registration, supported[name], apply)
                if name in supported
                else _refusing(registration, name, apply)
            )
        for kind in kinds:
            _admit_keys(registration, kind)
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
    registration = _current()
    if registration is None:
        return
    known = algorithms()
    for kind in NATIVE:
        known.pop(kind.ALGORITHM, None)
    known.update(registration.algorithms)
    batch_editor().is_batchable_method = registration.batchable
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
            names = [*(m.name for m in METHODS), *(kind.ALGORITHM for kind in NATIVE)]
            supported = ", ".join(names)
            raise ConfigError(f"null_space is not for {name}: it projects {supported}")
        return apply(*args, **kwargs)

    setattr(wrapper, MARK, registration)
    return wrapper


def _add_native(registration: Registration, known: dict[str, Apply], batches: Any) -> None:
    """Add PRUNE and RECT, and admit them where the host lists who takes batches."""
    registration.batchable = vars(batches)["is_batchable_method"]
    before, names = batches.is_batchable_method, {kind.ALGORITHM for kind in NATIVE}
    batches.is_batchable_method = staticmethod(lambda name: name in names or before(name))

    def wrapper(model: Any, tok: Any, requests: Any, hparams: Any, **options: Any) -> Any:
        if options.get("copy"):
            raise ConfigError(f"{hparams.alg_name} edits the model it is given: copy it yourself")
        state = registration.states.setdefault(model, ModelState())

        def projectors_of(weights: list[str]) -> dict[str, Projector]:
            return _projectors(state, NullSpaceFlag.of(hparams), (model, tok, hparams), weights)

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


def _projectors(
    state: ModelState, flag: NullSpaceFlag, host: tuple[Any, Any, Any], names: list[str]
) -> dict[str, Projector]:
    """One projector per weight: from a file, or fitted to the host's statistics and kept."""
    model, tokenizer, hparams = host
    statistics = (hparams.stats_dir, hparams.mom2_dataset, hparams.mom2_n_samples)
    source = str(flag.projector_path or (flag.cut, *statistics, hparams.mom2_dtype))
    missing = [name for name in names if (name, source) not in state.projectors]
    if missing and flag.projector_path:
        view = EditableModel.wrap(model, tokenizer)
        foreign = set(missing) - {view.weight_name(layer) for layer in hparams.layers}
        if foreign:
            raise ConfigError(f"projector_path holds none for {min(foreign)}: leave the key out")
        # Checked against the weights as they are before the first edit; later ones differ.
        path = Path(flag.projector_path).expanduser()
        for layer, projector in load_projectors(view, hparams.layers, path).items():
            state.projectors[view.weight_name(layer), source] = projector
    elif missing:
        for number, name in enumerate(missing):
            module = name.removesuffix(".weight")
            mean = second_moment_of(model, tokenizer, module, hparams).double()
            fitted = fit_projectors({number: SecondMoment(mean, 1)}, flag.cut)
            state.projectors[name, source] = fitted[number]
    return {name: state.projectors[name, source] for name in names}
