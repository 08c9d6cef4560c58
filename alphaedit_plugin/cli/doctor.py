"""``alphaedit doctor``: look for what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import Command
from alphaedit_plugin.common.errors import ConfigError


def _run(words: Sequence[str], console: Console) -> int:
    from alphaedit_plugin.cli.diagnosis import run_doctor

    if words:
        raise ConfigError(f"doctor takes no settings: leave {words[0]!r} away")
    return run_doctor(console)


COMMAND = Command(
    "doctor",
    "say what is installed, what is wrong, and the fix for each",
    "Looks at Python, torch, transformers, EasyEdit, models and cache folders; its exit "
    "status is 1 if something is broken. EasyEdit is optional.",
    ("alphaedit doctor",),
    _run,
    "",
)
