"""The ``alphaedit`` command: a command's name, followed by Hydra overrides.

Nothing heavy is imported before a command needs it, so that help comes at once.
"""

from __future__ import annotations

import errno
import io
import logging
import signal
import sys
import traceback
from collections.abc import Sequence

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from alphaedit_plugin.cli.base import COMMANDS, refuse_unread
from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import (
    AlphaEditError,
    ConfigError,
    first_line,
    is_out_of_memory,
    unknown_name,
)
from alphaedit_plugin.common.groups import groups, options
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.config.overrides import reads

HELP_FLAGS = ("-h", "--help")
FAILED, INTERRUPTED = 2, 130
LONGEST = 1200  # characters of an error: it may quote a whole prompt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after ``alphaedit``; ``None`` takes the process's own.

    Returns:
        The exit status: 0, 2 after an error that is reported in one line, 130 when interrupted;
        that of the script after ``run``, 1 where ``doctor`` found something broken.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # or worker processes would go on with their cells
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    own = typed.index("--") if "--" in typed else len(typed)
    words, script = typed[:own], typed[own:]  # after "--" nothing is ours to read
    verbose = [word for word in words if word in ("-v", "--verbose")]
    words = [word for word in words if word not in verbose]
    _print_anything()
    console, errors = Console(), Console(stderr=True)
    _start_logging(errors, logging.INFO if verbose else logging.WARNING)
    try:
        return _dispatch(words, script, console)
    except AlphaEditError as error:
        say(errors, f"alphaedit: error: {_one_line(str(error))}")
        return FAILED
    except KeyboardInterrupt:
        say(errors, "alphaedit: interrupted")
        return INTERRUPTED
    except Exception as error:
        if words[:1] == ["run"]:
            raise  # the script's own: Python shows it as it would without us
        if verbose:
            traceback.print_exception(error)
        say(errors, f"alphaedit: error: {_unexpected(error, words)}")
        return FAILED


def _one_line(text: str) -> str:
    """Without line breaks, and no longer than anyone reads: the start says what, the end why."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} … {line[-LONGEST // 3 :]}"


def _unexpected(error: Exception, words: Sequence[str]) -> str:
    """One line for an error that was not raised on purpose."""
    if is_out_of_memory(error):
        return f"out of memory: {COMMANDS.get(words[0]).memory}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {error.filename or 'what has to be written'}: make some"
    said = ": ".join(text for text in (type(error).__name__, first_line(error)) if text)
    return f"{said} (a bug or an unexpected state; run again with -v for the traceback)"


def _dispatch(words: list[str], script: list[str], console: Console) -> int:
    if "--version" in words:
        say(console, f"alphaedit {VERSION}")
        return 0
    if not words or words[0] in HELP_FLAGS:
        _general_help(console)
        return 0
    name, *rest = words
    if name not in COMMANDS:
        hint = f"; put a command first: alphaedit edit {name}" if "=" in name else ""
        raise ConfigError(unknown_name("command", name, COMMANDS) + hint)
    if any(flag in rest for flag in HELP_FLAGS):
        _command_help(console, name)
        return 0
    refuse_unread(name, rest)
    return COMMANDS.get(name).run([*rest, *script], console) or 0


def _general_help(console: Console) -> None:
    say(console, "Edit a language model with any base method, with and without the null space.\n")
    say(console, "usage: alphaedit COMMAND [key=value …]\n")
    table = Table.grid(padding=(0, 2, 0, 2))
    for name in COMMANDS:
        table.add_row(name, COMMANDS.get(name).summary)
    console.print(table)
    say(console, "\nalphaedit COMMAND --help says more; -v logs more; --version.\n")
    _group_help(console)


def _command_help(console: Console, name: str) -> None:
    command = COMMANDS.get(name)
    say(console, f"usage: alphaedit {name} {command.usage}".rstrip())
    say(console, f"\n{command.detail}\n")
    say(console, "examples:\n" + "\n".join(f"  {line}" for line in command.examples))
    if command.schema is not None:
        say(console, "")
        _group_help(console, name)


def _group_help(console: Console, name: str | None = None) -> None:
    """What is chosen by name, with any command or the one that is named."""
    schema = None if name is None else COMMANDS.get(name).schema
    say(console, "choose with:")
    table = Table.grid(padding=(0, 2, 0, 2))
    for group in groups():
        if schema is not None and not reads(schema, group):
            continue
        named = [name for name in options(group) if name != "default"]  # which needs no choosing
        table.add_row(f"{group}=", escape(" | ".join(named)))
    table.add_row("null_space=", "true | false")
    console.print(table)
    shown = f"alphaedit config {name or 'COMMAND'}"
    say(console, f"any other setting: see {shown}, e.g. model.layers=[13,14]")


def _print_anything() -> None:
    """A terminal that lacks a character shows ``?`` in its place, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _start_logging(errors: Console, level: int) -> None:
    handler = RichHandler(level, errors, show_time=False, show_path=False)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
