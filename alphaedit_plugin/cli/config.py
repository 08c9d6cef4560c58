"""``alphaedit config``: show the composed configuration."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import Command
from alphaedit_plugin.common.console import say


def _run(overrides: Sequence[str], console: Console) -> None:
    from omegaconf import OmegaConf

    from alphaedit_plugin.config.compose import load_config

    config = OmegaConf.structured(load_config(overrides))
    say(console, OmegaConf.to_yaml(config, resolve=True).rstrip())


COMMAND = Command(
    "config",
    "print the composed configuration as YAML",
    "Every setting, with interpolations resolved; nothing is loaded or run.",
    ("alphaedit config base=rome model=gpt2-xl",),
    _run,
)
