"""Typed configuration behind the Hydra groups in ``conf/``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from alphaedit_plugin.errors import ConfigError, unknown_name
from alphaedit_plugin.groups import CONFIG_MODULE, options
from alphaedit_plugin.methods import METHODS, BaseMethod, Mode, Projected
from alphaedit_plugin.projector import Cut
from alphaedit_plugin.prompts import FactToken
from alphaedit_plugin.targets import TargetSettings

__all__ = [
    "CONFIG_MODULE",
    "CompareConfig",
    "ContextsConfig",
    "DataConfig",
    "EditorConfig",
    "Host",
    "ModelConfig",
    "MomentsConfig",
    "Preset",
    "ProjectorConfig",
    "RequestConfig",
    "as_config",
    "build_method",
    "load_config",
    "options",
    "register_configs",
]


class Host(str, Enum):
    """Whose update functions run: ours, or EasyEdit's."""

    native = "native"
    easyedit = "easyedit"


@dataclass
class ContextsConfig:
    """Context templates: given, or sampled from the model.

    Attributes:
        templates: with one ``{}`` each; ``None`` samples them.
        lengths: pairs of (tokens per text, number of texts) to sample.
        bare_apart: the bare prompt weighs as much as all others together (MEMIT), or as one of
            them (ROME).
    """

    templates: list[str] | None = None
    lengths: list[list[int]] = field(default_factory=lambda: [[10, 5]])
    bare_apart: bool = True


@dataclass
class MomentsConfig:
    """Where second moments come from: the first of these that is there.

    Attributes:
        stats_dir: EasyEdit's folder of second moments.
        stats_dataset: the data set in the name of EasyEdit's files.
        stats_precision: the precision in their name.
        stats_samples: the number of samples in their name.
        corpus: a text or JSONL file.
        hub: a Hugging Face data set to stream.
        hub_config: its configuration.
        tokens: how many tokens of a corpus to read.
    """

    stats_dir: str | None = None
    stats_dataset: str = "wikipedia"
    stats_precision: str = "float32"
    stats_samples: int = 100_000
    corpus: str | None = None
    hub: str | None = "wikimedia/wikipedia"
    hub_config: str | None = "20231101.en"
    tokens: int | None = 1_000_000


@dataclass
class Preset:
    """What differs between methods that edit a single layer and those that spread over several."""

    layers: list[int] = field(default_factory=list)
    clamp_norm_factor: float = 0.75
    context_lengths: list[list[int]] = field(default_factory=lambda: [[10, 5]])
    bare_apart: bool = True


@dataclass
class TunedConfig:
    """Overrides that apply to one side only, so that both are at their best on a model.

    Attributes:
        plain: where ``null_space`` is false.
        null_space: where it is true.
    """

    plain: list[str] = field(default_factory=list)
    null_space: list[str] = field(default_factory=list)


@dataclass
class ModelConfig:
    """A model and the settings that go with it.

    Attributes:
        path: folder or hub name; ``None`` is the embedded pocket model.
        layers: to edit, in this order.
        dtype: of the weights: float32, bfloat16 or float16.
        device: ``auto`` takes a GPU where there is one.
        threads: CPU threads that a command uses at most; ``None`` leaves torch its choice.
        fact_token: which token holds the fact.
        moment_weight: ``λ`` of MEMIT and its kin.
        use_moment: whether ROME takes ``u`` along ``C⁻¹k``, or along ``k``.
        target: the search for target values.
        contexts: the context templates.
        moments: where second moments come from.
        cut: the projector's default cut for this model.
        l2: AlphaEdit's ridge for this model.
        presets: what ``layers`` and others take by default, by the base's span.
        tuned: overrides for plain and for projected editing; one's own come after them.
    """

    path: str | None = MISSING
    layers: list[int] = MISSING
    dtype: str = "float32"
    device: str = "auto"
    threads: int | None = None
    fact_token: FactToken = FactToken.subject_last
    moment_weight: float = 15_000.0
    use_moment: bool = True
    target: TargetSettings = field(default_factory=TargetSettings)
    contexts: ContextsConfig = field(default_factory=ContextsConfig)
    moments: MomentsConfig = field(default_factory=MomentsConfig)
    cut: Cut = field(default_factory=Cut)
    l2: float = 10.0
    presets: dict[str, Preset] = field(default_factory=dict)
    tuned: TunedConfig = field(default_factory=TunedConfig)


@dataclass
class ProjectorConfig:
    """The null-space projector.

    Attributes:
        cut: which eigenvectors it keeps.
        l2: AlphaEdit's ridge, in ``solve`` mode.
        mode: ``auto``, ``solve`` or ``post``.
        path: a projector file to use instead of fitting one.
    """

    cut: Cut = field(default_factory=Cut)
    l2: float = 10.0
    mode: Mode = Mode.auto
    path: str | None = None


@dataclass
class DataConfig:
    """Which facts are edited.

    Attributes:
        name: a registered kind of data.
        path: its file, where it has one.
        limit: at most this many requests; ``None`` for all.
    """

    name: str = "pocket"
    path: str | None = None
    limit: int | None = None


@dataclass
class RequestConfig:
    """One request given on the command line, instead of ``data``."""

    prompt: str | None = None
    subject: str | None = None
    target_new: str | None = None


@dataclass
class CompareConfig:
    """The main job: every base, plain and projected.

    Attributes:
        bases: base methods to compare.
        edits: sequential edits per cell.
        retention: how many untouched facts of each kind are asked.
        every: evaluate after this many batches, too; 0 for only at the end.
        out: folder for the report.
    """

    bases: list[str] = field(default_factory=lambda: ["rome", "memit", "prune", "rect"])
    edits: int = 200
    retention: int = 300
    every: int = 2
    out: str = "runs/compare"


@dataclass
class EditorConfig:
    """Everything a command reads; ``base`` holds the fields of the chosen base method."""

    base: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    request: RequestConfig = field(default_factory=RequestConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    null_space: bool = True
    host: Host = Host.native
    seed: int = 0
    batch_size: int = 20
    save: str | None = None


def register_configs() -> None:
    """Make the schema known to Hydra; `load_config` does so itself.

    An application of one's own calls this before ``@hydra.main`` when it composes our
    ``config.yaml``, and gives the result to `as_config`.
    """
    ConfigStore.instance().store(name="editor_schema", node=EditorConfig)


def load_config(overrides: Sequence[str] = (), config_name: str = "config") -> EditorConfig:
    """Compose a configuration, as the command line does.

    Args:
        overrides: in Hydra's form: ``["base=rect", "model=gpt2-xl", "model.layers=[13,14]"]``;
            the text of a ``request`` needs no quotes of its own.
        config_name: the primary config.

    Returns:
        The typed configuration, every interpolation resolved.

    Raises:
        ConfigError: an unknown key, option or value; one line, with the nearest names.
    """
    quoted = [_quote_request(override) for override in overrides]
    config = _compose(quoted, config_name)
    tuned = config.model.tuned.null_space if config.null_space else config.model.tuned.plain
    return _compose([*tuned, *quoted], config_name) if tuned else config


def _compose(overrides: Sequence[str], config_name: str) -> EditorConfig:
    register_configs()
    try:
        with _outside_hydra(), initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            return as_config(compose(config_name, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error)) from None


@contextmanager
def _outside_hydra() -> Iterator[None]:
    """Let us compose inside an application that runs under Hydra itself, and leave no trace."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


def as_config(composed: DictConfig) -> EditorConfig:
    """A composed Hydra config, ours or from an application of one's own, as typed objects.

    Raises:
        ConfigError: a key is unknown, or a value is missing or does not fit; one line.
    """
    try:
        plain = OmegaConf.to_container(composed)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EditorConfig), plain))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key or 'a setting'} is not set: give it a value") from None
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from None
    assert isinstance(config, EditorConfig)
    _check(config)
    return config


def _check(config: EditorConfig) -> None:
    """Refuse what is of the right type but makes no sense, before anything heavy is loaded."""
    method = build_method(config.base)
    method.check_layers(config.model.layers)
    if config.null_space:
        Projected(method, {}, config.projector.mode, config.projector.l2)
    for name in config.compare.bases:
        METHODS.get(name)
    counts = {
        "batch_size": config.batch_size,
        "compare.edits": config.compare.edits,
    }
    for key, count in counts.items():
        if count < 1:
            raise ConfigError(f"{key} is {count}: it must be at least 1")
    if config.data.limit is not None and config.data.limit < 1:
        raise ConfigError(f"data.limit is {config.data.limit}: give at least 1, or null for all")


def build_method(settings: dict[str, Any]) -> BaseMethod:
    """A plain base method from its ``base`` group.

    Args:
        settings: ``name``, ``span``, and the fields of the method's dataclass.

    Raises:
        ConfigError: an unknown method or field, or a value of the wrong type.
    """
    if not isinstance(settings, dict) or "name" not in settings:
        raise ConfigError("base has no name: choose one with base=…")
    kind = METHODS.get(str(settings["name"]))
    given = {key: value for key, value in settings.items() if key not in ("name", "span")}
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise ConfigError(unknown_name(f"setting of base {settings['name']}", key, known))
    try:
        typed = OmegaConf.structured(kind, flags={"readonly": False})
        return OmegaConf.to_object(OmegaConf.merge(typed, given))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"base.{error.full_key}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _quote_request(override: str) -> str:
    """Quote the text of a request, whose slot ``{}`` Hydra's grammar takes for a dictionary."""
    key, sign, value = override.partition("=")
    quoted = len(value) > 1 and value[0] in "'\"" and value[0] == value[-1]
    if not key.startswith("request.") or not sign or value == "null" or quoted:
        return override
    # Hydra reads backslashes before a quote only, and an uneven number of them at the end.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"{key}='{escaped}{chr(92) * trailing}'"


def _explain(error: BaseException) -> str:
    """Hydra's or OmegaConf's complaint in one line, with the nearest names."""
    text = str(error)
    option = re.search(r"Could not find '([\w/.-]+)/([\w.-]+)'", text)
    if option:
        group, name = option.groups()
        return unknown_name(f"option for {group}", name, options(group))
    key = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Key '[^']+' (?:is )?not in [\s\S]*?full_key: (\S+)", text
    )
    if key:
        return _unknown_key(key.group(1))
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: overrides look like key=value"
    if text.startswith("Error merging override") and error.__cause__:
        return f"{text.removeprefix('Error merging override ')}: {_first_line(error.__cause__)}"
    if error.__cause__ and "ValidationError" in text:
        return f"{_first_line(error)} {_first_line(error.__cause__)}"
    return _first_line(error)


def _unknown_key(key: str) -> str:
    """Name the nearest keys: those that end alike, or those beside it, or any."""
    known = _known_keys()
    alike = [name for name in known if name.endswith(f".{key}")]
    if alike:
        return f"unknown key {key!r}; did you mean {' or '.join(map(repr, alike[:3]))}?"
    parent = key.rpartition(".")[0]
    beside = [name for name in known if parent and name.rpartition(".")[0] == parent]
    return unknown_name("key", key, beside or known)


def _known_keys() -> list[str]:
    """Every key that can be overridden, dotted, groups and the bases' own fields included."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            yield prefix + str(key)
            yield from walk(value, f"{prefix}{key}.")

    schema = OmegaConf.to_container(OmegaConf.structured(EditorConfig))
    own = {f"base.{f.name}" for name in METHODS for f in fields(METHODS.get(name))}  # type: ignore[arg-type]
    return [*walk(schema, ""), *sorted(own)]
