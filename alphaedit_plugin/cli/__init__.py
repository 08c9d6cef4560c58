"""The commands: one file each, listed here in the order that help shows them.

A command imports what it works with only when it runs, so that help comes at once.
"""

from __future__ import annotations

from alphaedit_plugin.cli import (
    apply,
    compare,
    config,
    doctor,
    edit,
    export,
    fit,
    inspect,
    report,
    run,
    suggest,
    undo,
    verify,
)
from alphaedit_plugin.cli.base import OVERRIDES, Command

COMMANDS: tuple[Command, ...] = (
    edit.COMMAND,
    export.COMMAND,
    undo.COMMAND,
    apply.COMMAND,
    verify.COMMAND,
    compare.COMMAND,
    report.COMMAND,
    fit.COMMAND,
    inspect.COMMAND,
    suggest.COMMAND,
    config.COMMAND,
    run.COMMAND,
    doctor.COMMAND,
)

__all__ = ["COMMANDS", "OVERRIDES", "Command"]
