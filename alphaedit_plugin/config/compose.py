"""From overrides to a checked configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.groups import CONFIG_MODULE
from alphaedit_plugin.config.checks import check
from alphaedit_plugin.config.explain import explain
from alphaedit_plugin.config.overrides import bases_with, key_of, read_overrides
from alphaedit_plugin.config.schema import EditorConfig

logger = logging.getLogger(__name__)


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
    given = read_overrides(overrides)
    config = _compose(given, config_name)
    tuned = config.model.tuned.side(config.null_space)
    tuned[:] = [override for override in tuned if _applies(override, config, given)]
    if not tuned:
        return config
    logger.info("tuned for this model with null_space=%s: %s", config.null_space, " ".join(tuned))
    applied = list(tuned)
    config = _compose([*applied, *given], config_name)
    config.model.tuned.side(config.null_space)[:] = applied
    return config


def _applies(override: str, config: EditorConfig, given: Sequence[str]) -> bool:
    """Whether one of the model's own overrides is not overridden, and read by the chosen base."""
    key = key_of(override)
    if key in map(key_of, given):
        return False
    last = key.rpartition(".")[2]
    return last in config.base or not bases_with(last)


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
        typed = OmegaConf.merge(OmegaConf.structured(EditorConfig), plain)
        cut = typed.projector.cut  # the model's own is written as a reference to it
        chosen = not all(OmegaConf.is_interpolation(cut, key) for key in cut)
        config = OmegaConf.to_object(typed)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key or 'a setting'} is not set: give it a value") from None
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    assert isinstance(config, EditorConfig)
    config.projector.chosen = chosen
    check(config)
    return config
