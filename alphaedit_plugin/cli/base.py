"""What a command is, where commands are registered, and what those that work on a model share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.registry import Registry
from alphaedit_plugin.config.overrides import key_of, reads
from alphaedit_plugin.config.schema import MethodSettings

OVERRIDES = "[key=value …]"
ANY_LAYER = "model.layers=[0]"  # model=custom asks for layers, also where a command finds its own


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: what it does, in one line.
        detail: what else its help says.
        examples: complete command lines.
        run: does it, given the words after its name; returns the exit status, ``None`` for 0.
        schema: a dataclass of the settings that it reads; ``None`` where it reads no overrides.
        usage: what the words after its name look like.
        memory: what to do where its memory does not suffice.
    """

    summary: str
    detail: str
    examples: tuple[str, ...]
    run: Callable[[Sequence[str], Console], int | None]
    schema: type[MethodSettings] | None = None
    usage: str = OVERRIDES
    memory: str = "set model.dtype=bfloat16, or use a device with more memory"


# One file each, which imports what it works with only when it runs: help and typing errors are
# answered before torch could be imported.
COMMANDS: Registry[Command] = Registry("command", "alphaedit_plugin.cli")


def split_words(
    command: str, names: Sequence[str], words: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Split words into those that are not overrides, and the overrides.

    Args:
        command: for the message.
        names: of the former, as help shows them; one in brackets may be left out, and is ``""``.
        words: as typed.

    Raises:
        ConfigError: too few or too many of them.
    """
    given = [word for word in words if "=" not in word]
    least = sum(not name.startswith("[") for name in names)
    if not least <= len(given) <= len(names):
        usage = " ".join((command, *names))
        raise ConfigError(f"{command} was given {given or 'nothing'}: type alphaedit {usage}")
    overrides = [word for word in words if "=" in word]
    return given + [""] * (len(names) - len(given)), overrides


@contextmanager
def working(config: MethodSettings) -> Iterator[None]:
    """Work with the configured number of threads, and with no progress bars but our own."""
    from transformers.utils import logging as transformers_logging

    from alphaedit_plugin.config.build import cpu_threads

    transformers_logging.disable_progress_bar()
    with cpu_threads(config.model.threads):
        yield


def refuse_unread(name: str, words: Sequence[str]) -> None:
    """Refuse settings that other commands read, but not this one.

    Args:
        name: of the command.
        words: as typed; those that are not overrides are skipped.

    Raises:
        ConfigError: there is one; the message names the commands that read it.
    """
    schema = COMMANDS.get(name).schema
    for key in (key_of(word) for word in words if "=" in word):
        if schema is None or key.startswith("hydra") or reads(schema, key):
            continue
        schemas = {other: COMMANDS.get(other).schema for other in COMMANDS}
        readers = [other for other, one in schemas.items() if one is not None and reads(one, key)]
        if readers:
            *most, last = readers
            who = f"{', '.join(most)} and {last} do" if most else f"{last} does"
            raise ConfigError(f"{name} does not read {key}: {who}")
