"""From overrides to a checked configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from alphaedit_plugin.config.checks import check
from alphaedit_plugin.config.explain import explain
from alphaedit_plugin.config.nodes import EditorConfig
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.groups import CONFIG_MODULE


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
        raise ConfigError(explain(error)) from None


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
        raise ConfigError(explain(error)) from None
    assert isinstance(config, EditorConfig)
    check(config)
    return config


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
