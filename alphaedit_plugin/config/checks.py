"""Settings that are of the right type but make no sense, refused before anything is loaded."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alphaedit_plugin.config.explain import first_line
from alphaedit_plugin.config.nodes import EditorConfig
from alphaedit_plugin.errors import ConfigError, unknown_name
from alphaedit_plugin.methods import METHODS, BaseMethod, Projected


def check(config: EditorConfig) -> None:
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
        raise ConfigError(f"base.{error.full_key}: {first_line(error)}") from None
