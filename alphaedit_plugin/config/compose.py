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
    defaults_of,
    read_overrides,
    unowned,
)
from alphaedit_plugin.config.schema import EditorConfig, MethodSettings, ProjectorConfig
from alphaedit_plugin.data.base import options_of
from alphaedit_plugin.data.settings import DataConfig

Schema = TypeVar("Schema", bound=MethodSettings)


def register_configs(schema: type[MethodSettings] = EditorConfig) -> None:
    """Make known to Hydra a schema's settings and defaults, and ``${not:${null_space}}``."""
    OmegaConf.register_new_resolver("not", lambda value: not value, replace=True)
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
    return _validated(_read_of(composed, schema), schema)


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


def _validated(composed: DictConfig, schema: type[Any]) -> Any:
    """A composed configuration as typed objects."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key or 'a setting'} is not set: give it a value") from None
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from None
    values = cast(dict[str, Any], plain)
    if "data" in values:
        values["data"] = _apart(values["data"])
    if "projector" in values:
        cut = composed.projector.cut  # the model's own is written as a reference to it
        chosen = not all(OmegaConf.is_interpolation(cut, key) for key in cut)
        values["projector"]["chosen"] = chosen
    config: Any = validated(schema, values)
    if "projector" in values:
        config.projector.cut.check()
    if "data" in values:
        options_of(config.data)
    return config


def _apart(data: Mapping[str, Any]) -> dict[str, Any]:
    """The ``data`` node with the data set's own settings apart from those of all data sets."""
    shared = {field.name for field in fields(DataConfig)}
    own = {name: value for name, value in data.items() if name not in shared}
    return {k: v for k, v in data.items() if k in shared} | {"options": data["options"] | own}
