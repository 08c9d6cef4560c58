"""From overrides to a validated configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar, cast, get_type_hints, overload

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from alphaedit_plugin.common.errors import ConfigError, first_line
from alphaedit_plugin.common.groups import CONFIG_MODULE, groups
from alphaedit_plugin.common.validation import validated
from alphaedit_plugin.config.overrides import (
    OWNING,
    defaults_of,
    dotted,
    read_overrides,
    reads,
    unknown_key,
    unowned,
)
from alphaedit_plugin.config.schema import EditorConfig, MethodSettings, ProjectorConfig
from alphaedit_plugin.data.base import options_of
from alphaedit_plugin.data.settings import DataConfig

Schema = TypeVar("Schema", bound=MethodSettings)


def register_configs(schema: type[MethodSettings] = EditorConfig) -> None:
    """Make the settings of a schema, and their defaults, known to Hydra.

    An application of your own calls this before ``@hydra.main`` when it composes our
    ``config.yaml``, and gives the result to `as_config`.
    """
    _register_resolver()
    ConfigStore.instance().store(name="editor_schema", node=defaults_of(schema))


@overload
def load_config(overrides: Sequence[str] = ()) -> EditorConfig: ...
@overload
def load_config(overrides: Sequence[str], schema: type[Schema]) -> Schema: ...
def load_config(overrides: Sequence[str] = (), schema: type[Any] = EditorConfig) -> Any:
    """Compose a configuration, as the command line does.

    Args:
        overrides: in Hydra's form: ``["base=rect", "model=gpt2-xl", "model.layers=[13,14]"]``;
            the text of a ``request`` needs no quotes of its own.
        schema: what is read; a setting that it lacks is refused.

    Returns:
        The typed configuration, every interpolation resolved.

    Raises:
        ConfigError: an unknown key, option or value; one line, with the nearest names.
    """
    given = read_overrides(overrides, schema)
    register_configs(schema)
    try:
        with _outside_hydra(), initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            composed = compose("config", overrides=given)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(unowned(given) or first_line(error)) from None
    return as_config(_read_of(composed, schema), schema)


def _read_of(composed: DictConfig, schema: type[MethodSettings]) -> DictConfig:
    """Without the groups, and what a projector's file sets, that the schema does not read."""
    kinds = get_type_hints(schema)
    unread = set(groups()) - set(kinds)
    read = OmegaConf.masked_copy(composed, [str(k) for k in composed if k not in unread])
    if "projector" in kinds:
        unread = set(get_type_hints(ProjectorConfig)) - set(get_type_hints(kinds["projector"]))
        used = [str(key) for key in read.projector if key not in unread]
        read.projector = OmegaConf.masked_copy(read.projector, used)
    return read


@contextmanager
def _outside_hydra() -> Iterator[None]:
    """Let us compose inside an application that runs under Hydra itself, and leave no trace."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


@overload
def as_config(composed: DictConfig) -> EditorConfig: ...
@overload
def as_config(composed: DictConfig, schema: type[Schema]) -> Schema: ...
def as_config(composed: DictConfig, schema: type[Any] = EditorConfig) -> Any:
    """A composed Hydra config, ours or from an application of your own, as typed objects.

    Raises:
        ConfigError: a key is unknown, or a value is missing or does not fit; one line.
    """
    _register_resolver()
    given = OmegaConf.to_container(composed)
    for key in dotted(given):
        owned = key.startswith(tuple(f"{group}." for group in OWNING))  # by whatever is chosen
        if not owned and not reads(schema, key):
            raise ConfigError(unknown_key(key, schema))
    try:
        merged = OmegaConf.merge(defaults_of(schema), given)
        plain = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key or 'a setting'} is not set: give it a value") from None
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from None
    values = cast(dict[str, Any], plain)
    if "data" in values:
        values["data"] = _apart(values["data"])
    if "projector" in values:
        cut = merged.projector.cut  # the model's own is written as a reference to it
        chosen = not all(OmegaConf.is_interpolation(cut, key) for key in cut)
        values["projector"]["chosen"] = chosen
    config: Any = validated(schema, values)
    if "projector" in values:
        config.projector.cut.check()
    if "data" in values:
        options_of(config.data)
    return config


def _register_resolver() -> None:
    """``${not:${null_space}}`` in YAML."""
    OmegaConf.register_new_resolver("not", lambda value: not value, replace=True)


def _apart(data: Mapping[str, Any]) -> dict[str, Any]:
    """The ``data`` node with the data set's own settings apart from those of all data sets."""
    shared = {field.name for field in fields(DataConfig)}
    own = {name: value for name, value in data.items() if name not in shared}
    return {k: v for k, v in data.items() if k in shared} | {"options": data["options"] | own}
