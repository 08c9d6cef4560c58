"""Errors for people: what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 12  # of more names than this, only those without a dot, and only if none is near
LONGEST = 200  # characters of another library's message, or of a text that is quoted
OUT_OF_MEMORY = (
    "out of memory",  # CUDA, MPS, XPU
    "can't allocate memory",  # torch's CPU allocator on Linux and macOS
    "not enough memory",  # on Windows
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class AlphaEditError(Exception):
    """Base of every error raised on purpose; the command line prints it in one line."""


class ConfigError(AlphaEditError):
    """A setting that does not exist, does not fit, or contradicts another."""


class RequestError(AlphaEditError):
    """A request that cannot be edited as given."""


class ModelError(AlphaEditError):
    """A model, layer or weight that cannot be edited as asked."""


class ProjectorError(AlphaEditError):
    """A projector that is missing, damaged, or belongs to another model or layer."""


class PatchError(AlphaEditError):
    """A patch or journal that is missing, damaged, or belongs to another model."""


class NumericalError(AlphaEditError):
    """A computation gave inf or nan; no weight was changed."""


class OutOfMemory(AlphaEditError):
    """Even the smallest piece of the work does not fit into memory."""


def require(holds: bool, name: str, value: object, what: str) -> None:
    """Refuse a setting's value.

    Args:
        holds: whether the value is allowed; written so that ``nan`` is not.
        name: of the setting, as in an override: ``"model.target.lr"``.
        value: as it was given.
        what: what it must be.

    Raises:
        ConfigError: it is not allowed.
    """
    if not holds:
        raise ConfigError(f"{name} is {value}: it must be {what}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch says that memory ran out, on any device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(sign in said for sign in OUT_OF_MEMORY)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for an error message: ``name`` is unknown, and these are the nearest names.

    Args:
        kind: what the name should have been, e.g. ``"base method"``.
        name: the name that was given.
        known: all names that would have been accepted.
    """
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    shown = options if len(options) <= LISTED else [o for o in options if "." not in o and not near]
    listed = f" (known: {', '.join(shown)})" if shown else ""
    return f"unknown {kind} {name!r}{hint}{listed}"


def quoted(value: object, most: int = LONGEST) -> str:
    """A value as Python writes it; of a long one its beginning and its end."""
    shown = repr(value)
    if len(shown) <= most:
        return shown
    end = most // 4
    return f"{shown[: most - end - 1]}…{shown[-end:]}"


def counted(count: int, noun: str) -> str:
    """``"1 edit"``, ``"2 edits"``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to a readable length: libraries add pages."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if len(lines[0]) <= LONGEST else lines[0][: LONGEST - 1] + "…"
