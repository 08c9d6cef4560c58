"""From a configuration to the things it names: model, method, context templates, recipe."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from alphaedit_plugin.common.errors import ConfigError, ModelError, first_line
from alphaedit_plugin.common.validation import validated
from alphaedit_plugin.config.corpora import corpus_name
from alphaedit_plugin.config.model import ModelConfig
from alphaedit_plugin.config.schema import EditingSettings, ProjectorConfig
from alphaedit_plugin.config.statistics import load_moments, provide_projectors
from alphaedit_plugin.data.pocket_world.model import load_pocket
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import METHODS, BaseMethod
from alphaedit_plugin.models import gguf
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.generation import generate_contexts
from alphaedit_plugin.models.pretrained import find_checkpoint, load_pretrained
from alphaedit_plugin.models.tokens import ContextTemplates
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment


def build_method(settings: Mapping[str, Any]) -> BaseMethod:
    """A plain base method from its ``base`` group.

    Args:
        settings: ``name``, ``span``, and the fields of the method's dataclass.

    Raises:
        ConfigError: an unknown method or field, or a value that does not fit.
    """
    if "name" not in settings:
        raise ConfigError("base has no name: choose one with base=…")
    given = {key: value for key, value in settings.items() if key not in ("name", "span")}
    return validated(METHODS.get(str(settings["name"])), given, "base.")


def confined(
    method: BaseMethod, projectors: Mapping[int, Projector], config: ProjectorConfig
) -> AlphaEdit:
    """The base method in the null space.

    Raises:
        ConfigError: a setting of the projector that does not suit the base.
    """
    return AlphaEdit(method, projectors, config.mode, config.l2, config.moment_weight)


def load(
    config: EditingSettings,
    check: Callable[[EditableModel], None],
    lm: EditableModel | None = None,
) -> tuple[EditableModel, Recipe]:
    """The model that ``config`` names and everything an edit of it needs.

    Args:
        config: names them.
        check: is shown the model before second moments, which can take hours, are collected on it;
            what it raises is passed on.
        lm: the model, where it is loaded already.

    Raises:
        AlphaEditError: something named there is missing or does not fit; what can be told without
            the model is told before it is loaded.
    """
    check_sources(config)
    lm = load_model(config.model) if lm is None else lm
    check(lm)
    return lm, load_recipe(lm, config)


def load_model(config: ModelConfig) -> EditableModel:
    """Load the model and tokenizer, in the configured dtype and place.

    Raises:
        ConfigError: a device that is not there, or a ``device_map`` beside it.
        ModelError: the model cannot be loaded or lacks weights, or cannot be edited.
    """
    dtype, spread = getattr(torch, config.dtype), _spread(config)
    device = None if spread else _device(config.device)
    with torch.inference_mode(False):  # or no target could be searched
        if config.path is None:
            model, tokenizer = load_pocket(dtype, **spread)
        else:  # a slash at the end would hide the name by which the host's files go
            path = config.path.rstrip("/") or "/"
            checkpoint = find_checkpoint(path, config.gguf_file, config.package)
            model, tokenizer = load_pretrained(checkpoint, dtype=dtype, **spread)
        placed = model if device is None else model.to(device)
        lm = EditableModel.wrap(
            placed.eval(), tokenizer, config.layout.given, config.separator, config.chat
        )
    lm.check_layers(config.layers)
    return lm


def _spread(config: ModelConfig) -> dict[str, Any]:
    """What ``from_pretrained`` is told to spread the model; empty for one device.

    Raises:
        ConfigError: ``device`` is set, too, or accelerate is not there.
    """
    if config.device_map is None:
        if config.max_memory is not None:
            raise ConfigError("model.max_memory is for model.device_map=auto: set that, too")
        return {}
    if config.device != "auto":
        raise ConfigError(
            f"model.device={config.device} and model.device_map are both set: remove one of them"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError("model.device_map needs accelerate: pip install accelerate")
    return {"device_map": config.device_map, "max_memory": config.max_memory}


def _device(name: str) -> torch.device:
    """The device called ``name``, tried before a large model is read for it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # which a meta device cannot give
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"model.device={name} cannot be used: {first_line(error)}") from None


@contextmanager
def cpu_threads(most: int | None) -> Iterator[None]:
    """Limit torch to ``most`` CPU threads inside; as before on exit."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(most or before, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_sources(config: EditingSettings) -> None:
    """Refuse second moments that cannot be collected, before a large model is loaded for them.

    Raises:
        ModelError: a folder for the model that is not there, or a file.
        ConfigError: settings of the base method that do not fit, a corpus that is not there, or
            the ``datasets`` package is not.
    """
    method, given = build_method(config.base), config.projector.path is not None
    method.check_layers(config.model.layers)
    folder = config.model.path or ""
    if folder.endswith(gguf.SUFFIX):
        above, name = Path(folder).parent, Path(folder).name
        raise ModelError(f"{folder} is a file: set model.path={above} and model.gguf_file={name}")
    if folder.startswith(("/", "./", "../")) and not Path(folder).is_dir():
        raise ModelError(f"no model at {folder}: model.path is a folder or a hub name")
    if config.null_space:
        method = confined(method, {}, config.projector)
    if config.model.moments.stats_dir is None and (
        method.needs_moment or (config.null_space and not given)
    ):
        corpus_name(config.model)


def load_contexts(lm: EditableModel, config: EditingSettings) -> ContextTemplates:
    """The configured context templates, or ones sampled from the model."""
    contexts = config.model.contexts
    templates = contexts.templates
    if templates is None:
        templates = generate_contexts(lm, contexts.lengths, config.seed)
    return ContextTemplates.of(templates, contexts.bare_apart)


def load_recipe(lm: EditableModel, config: EditingSettings) -> Recipe:
    """Everything an edit of ``lm`` needs, ready; computing second moments can take hours.

    Raises:
        ModelError: a layer that cannot be edited.
        ProjectorError: see `provide_projectors`.
        ConfigError: there is no source of second moments, or the mode does not suit the base.
    """
    lm.check_layers(config.model.layers)
    method = build_method(config.base)
    if config.null_space:
        method = confined(method, provide_projectors(lm, config), config.projector)
    moments = load_moments(lm, config.model) if method.needs_moment else {}
    return recipe_of(lm, config, method, moments)


def recipe_of(
    lm: EditableModel,
    config: EditingSettings,
    method: BaseMethod,
    moments: dict[int, SecondMoment],
) -> Recipe:
    """The configured recipe, for a method and second moments that are there already."""
    return Recipe(
        method=method,
        layers=tuple(config.model.layers),
        contexts=load_contexts(lm, config),
        moments=moments,
        fact_token=config.model.fact_token,
        targets=config.model.target,
        on_conflict=config.on_conflict,
    )
