"""``alphaedit config``: show the composed configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import TypeAdapter
from rich.console import Console

from alphaedit_plugin.cli.base import COMMANDS, Command, refuse_unread, split_words
from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config


def run_config(words: Sequence[str], console: Console) -> None:
    """Print every setting of a command, ``edit`` where none is named.

    Raises:
        ConfigError: see `load_config`; or the command reads no settings.
    """
    (name,), overrides = split_words("config", ("[COMMAND]",), words)
    command = name or "edit"
    schema = COMMANDS.get(command).schema
    if schema is None:
        raise ConfigError(f"{command} reads no settings: see alphaedit {command} --help")
    refuse_unread(command, overrides)
    plain: dict[str, Any] = TypeAdapter(schema).dump_python(
        load_config(overrides, schema), mode="json"
    )
    if "data" in plain:
        plain["data"] |= plain["data"].pop("options")
    if "projector" in plain:
        del plain["projector"]["chosen"]
    say(console, yaml.safe_dump(plain, allow_unicode=True, sort_keys=False).rstrip())


COMMANDS.register(
    "config",
    Command(
        "print the composed configuration of a command as YAML",
        "Every setting that COMMAND reads (edit, if none is named), with interpolations resolved; "
        "nothing is loaded or run.",
        ("alphaedit config base=rome model=gpt2-xl", "alphaedit config compare experiment=pocket"),
        run_config,
        usage="[COMMAND] [key=value …]",
    ),
)
