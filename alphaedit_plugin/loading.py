"""From a configuration to the things it names: model, second moments, projectors, contexts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from alphaedit_plugin.config import EditorConfig, ModelConfig, build_method
from alphaedit_plugin.contexts import generate_contexts
from alphaedit_plugin.data.corpus import check_corpus, check_hub, read_corpus, stream_hub
from alphaedit_plugin.engine import Recipe
from alphaedit_plugin.errors import ConfigError, ModelError, first_line
from alphaedit_plugin.methods import BaseMethod, Projected
from alphaedit_plugin.models import LAYOUTS, EditableModel
from alphaedit_plugin.pocket import load_pocket, load_world
from alphaedit_plugin.pocket.world import corpus_sentences
from alphaedit_plugin.projector import fit_projectors, load_projectors
from alphaedit_plugin.prompts import ContextTemplates
from alphaedit_plugin.statistics import (
    HostMoments,
    SecondMoment,
    collect_second_moments,
    read_host_moment,
    write_host_moment,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(config: ModelConfig) -> EditableModel:
    """Load the model and tokenizer, in the configured dtype and place.

    Raises:
        ConfigError: an unknown dtype, or a device that is not there.
        ModelError: the model cannot be loaded, or is of an unknown family.
    """
    if config.dtype not in DTYPES:
        raise ConfigError(f"model.dtype is {config.dtype!r}: use one of {', '.join(DTYPES)}")
    device = _device(config.device)
    if config.path is None:
        model, tokenizer = load_pocket(DTYPES[config.dtype])
    else:
        try:
            # Gigabytes of an unknown family need not be read first.
            LAYOUTS.get(AutoConfig.from_pretrained(config.path).model_type, error=ModelError)
            tokenizer = AutoTokenizer.from_pretrained(config.path)
            model = AutoModelForCausalLM.from_pretrained(config.path, dtype=DTYPES[config.dtype])
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"cannot load model {config.path!r}: {str(error).strip().splitlines()[0]}"
            ) from None
    view = EditableModel.wrap(model.to(device).eval(), tokenizer)
    view.check_layers(config.layers)
    return view


def _device(name: str) -> torch.device:
    """The device called ``name``, tried before a large model is read for it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"model.device={name} cannot be used: {first_line(error)}") from None


@contextmanager
def cpu_threads(most: int | None) -> Iterator[None]:
    """Let torch use at most so many CPU threads inside; as before on exit."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(most or before, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_moments(view: EditableModel, config: ModelConfig) -> dict[int, SecondMoment]:
    """Second moments of the configured layers, read or collected.

    In EasyEdit's folder, ``moments.stats_dir``, what is there is used, and what is missing is
    collected and written so that EasyEdit finds it, too.

    Raises:
        ConfigError: there is no source of them.
    """
    moments = config.moments
    if moments.stats_dir is None:
        return collect_second_moments(view, _corpus(config), config.layers, moments.tokens)
    files = host_files(view, config, Path(moments.stats_dir).expanduser())
    missing = [layer for layer, path in files.items() if not path.is_file()]
    found = {layer: read_host_moment(files[layer]) for layer in files if layer not in missing}
    if missing:
        collected = collect_second_moments(view, _corpus(config), missing, moments.tokens)
        for layer, moment in collected.items():
            write_host_moment(moment, files[layer], moments.stats_samples)
        found |= collected
    return found


def host_files(view: EditableModel, config: ModelConfig, stats_dir: Path) -> dict[int, Path]:
    """Where EasyEdit looks for the second moment of each configured layer."""
    moments = config.moments
    files = HostMoments(
        stats_dir,
        view.model.config._name_or_path,
        moments.stats_dataset,
        moments.stats_precision,
        moments.stats_samples,
    )
    modules = {layer: view.layout.down_proj.format(layer) for layer in config.layers}
    return {layer: files.path(module) for layer, module in modules.items()}


def check_sources(config: EditorConfig) -> None:
    """Refuse second moments that cannot be collected, before a large model is loaded for them.

    Raises:
        ConfigError: a corpus that is not there, or the ``datasets`` package is not.
    """
    method, given = build_method(config.base), config.projector.path is not None
    if config.null_space:
        method = Projected(method, {}, config.projector.mode, config.projector.l2)
    moments = config.model.moments
    if moments.stats_dir is not None or not (method.needs_moment or config.null_space > given):
        return
    if moments.corpus is not None:
        check_corpus(Path(moments.corpus).expanduser())
    elif config.model.path is not None and moments.hub is not None:
        check_hub(moments.hub)


def load_method(
    view: EditableModel, config: EditorConfig
) -> tuple[BaseMethod, dict[int, SecondMoment]]:
    """The configured base method, projected where ``config.null_space`` says so.

    Returns:
        The method, and the second moments it needed or still needs: computing them can take
        hours, so none is where the projectors are given and the method reads none.

    Raises:
        ProjectorError: see `load_projectors`.
        ConfigError: there is no source of second moments, or the mode does not suit the base.
    """
    method = build_method(config.base)
    path = config.projector.path
    if config.null_space:
        given = {}
        if path is not None:
            given = load_projectors(view, config.model.layers, Path(path).expanduser())
        method = Projected(method, given, config.projector.mode, config.projector.l2)
    fits = config.null_space and path is None
    moments = load_moments(view, config.model) if fits or method.needs_moment else {}
    if fits and isinstance(method, Projected):
        method = replace(method, projectors=fit_projectors(moments, config.projector.cut))
    return method, moments


def load_contexts(view: EditableModel, config: EditorConfig) -> ContextTemplates:
    """The configured context templates, or ones sampled from the model."""
    contexts = config.model.contexts
    templates = contexts.templates
    if templates is None:
        pairs = [(int(length), int(count)) for length, count in contexts.lengths]
        templates = generate_contexts(view, pairs, config.seed)
    return ContextTemplates.of(templates, contexts.bare_apart)


def load_recipe(view: EditableModel, config: EditorConfig) -> Recipe:
    """Everything an edit of ``view`` needs, ready."""
    return recipe_of(view, config, *load_method(view, config))


def recipe_of(
    view: EditableModel,
    config: EditorConfig,
    method: BaseMethod,
    moments: dict[int, SecondMoment],
) -> Recipe:
    """The configured recipe, for a method and second moments that are there already."""
    return Recipe(
        method=method,
        layers=tuple(config.model.layers),
        contexts=load_contexts(view, config),
        moments=moments,
        fact_token=config.model.fact_token,
        targets=config.model.target,
    )


def _corpus(config: ModelConfig) -> Iterator[str]:
    moments = config.moments
    if moments.corpus is not None:
        return read_corpus(Path(moments.corpus).expanduser())
    if config.path is None:
        return iter(corpus_sentences(load_world()))
    if moments.hub is not None:
        return stream_hub(moments.hub, moments.hub_config)
    raise ConfigError(
        "no source of second moments: set model.moments.corpus to a text file, or "
        "model.moments.stats_dir to EasyEdit's folder"
    )
