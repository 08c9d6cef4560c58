"""Settings that a command takes, as all commands share one configuration, but does not use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

# Which commands use a setting; the longest name that fits counts, and what fits none is used by
# all, as base, model, null_space and seed are: they decide each other's defaults.
USED_BY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "batch_size": ("edit", "compare"),
        "compare": ("compare",),
        "corpus": ("edit", "compare", "fit", "inspect", "suggest", "verify"),
        "data": ("edit", "compare", "suggest"),
        "export": ("export",),
        "fit": ("fit",),
        "force": ("apply", "verify"),
        "host": ("edit",),
        "journal": ("edit",),
        "on_conflict": ("edit", "compare"),
        "patch": ("edit",),
        "projector": ("edit", "compare", "fit", "verify"),
        "projector.l2": ("edit", "compare"),
        "projector.mode": ("edit", "compare"),
        "projector.path": ("edit", "compare", "verify"),
        "projector.trust": ("edit", "compare", "inspect", "verify"),
        "request": ("edit",),
        "save": ("edit", "apply", "undo"),
        "suggest": ("suggest",),
    }
)
READERS = frozenset(command for commands in USED_BY.values() for command in commands)


def unused(command: str, words: Sequence[str]) -> str | None:
    """What to tell people whose settings would otherwise be ignored in silence.

    Args:
        command: which they typed.
        words: behind its name: overrides, and others.

    Returns:
        One line that names these settings, and for each the commands that use it; ``None`` where
        there are none, or the command has settings of its own only.
    """
    if command not in READERS:
        return None
    found = [(word, _users(command, word)) for word in words if "=" in word]
    parts = [f"{word} ({_they_do(users)})" for word, users in found if users]
    return f"{command} does not use {', '.join(parts)}" if parts else None


def _they_do(users: Sequence[str]) -> str:
    *others, last = users
    return f"{', '.join(others)} and {last} do" if others else f"{last} does"


def _users(command: str, word: str) -> tuple[str, ...]:
    """The commands that use a setting which ``command`` does not; empty where it does."""
    key = word.partition("=")[0].lstrip("+~-")
    if command == "compare":
        from alphaedit_plugin.experiments.sweep import REFUSED  # which says more, as an error

        if key.partition(".")[0] in REFUSED:
            return ()
    parts = key.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    users = next((USED_BY[name] for name in names if name in USED_BY), ())
    return () if command in users else users
