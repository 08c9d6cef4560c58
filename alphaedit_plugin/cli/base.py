"""What a command is, and what all that work on a model begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from alphaedit_plugin.common.errors import ConfigError

if TYPE_CHECKING:
    from alphaedit_plugin.config.schema import EditorConfig

OVERRIDES = "[key=value …]"
ANY_LAYER = "model.layers=[0]"  # model=custom asks for layers, also where a command finds its own


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: what is typed.
        summary: what it does, in one line.
        detail: what else its help says.
        examples: complete command lines.
        run: does it, given the words behind its name; returns the exit status, ``None`` for 0.
        usage: what those words look like; where it is not `OVERRIDES`, they are none of Hydra's.
        memory: what to do where its memory does not suffice.
    """

    name: str
    summary: str
    detail: str
    examples: tuple[str, ...]
    run: Callable[[Sequence[str], Console], int | None]
    usage: str = OVERRIDES
    memory: str = "set model.dtype=bfloat16, or use a device with more memory"


def split_words(
    command: str, names: Sequence[str], words: Sequence[str]
) -> tuple[list[str], list[str]]:
    """What is no override, and the overrides.

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
def working(config: EditorConfig) -> Iterator[None]:
    """Work with the configured number of threads, and with no progress bars but our own."""
    from alphaedit_plugin.config.build import cpu_threads

    hide_foreign_bars()
    with cpu_threads(config.model.threads):
        yield


def hide_foreign_bars() -> None:
    """Our own progress bars say what takes long; loading a model's shards is not among it."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
