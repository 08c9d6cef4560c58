"""Where results go: refused before a long run, or in one line where writing fails after it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, first_line


def writable_folder(name: str, given: str) -> Path:
    """A folder that a long run will write to, tried now; nothing is left there.

    Args:
        name: of the setting, for the message.
        given: its value.

    Raises:
        ConfigError: it is a file, or behind one, or in a place where nothing may be written.
    """
    folder = Path(os.path.expanduser(given))
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise ConfigError(f"{name}={given} cannot be written: {there} is a file; give a folder")
    _try(name, given, there)
    return folder


def _try(name: str, given: str, there: Path) -> None:
    """Make a folder and remove it: rights alone say little to root, or of /proc.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".alphaedit-", dir=there))
    except OSError as error:
        raise ConfigError(
            f"{name}={given} cannot be written: nothing can be made in {there} ({error.strerror})"
        ) from None


def empty_folder(name: str, given: str) -> Path:
    """As `writable_folder`, and refused where it holds anything."""
    folder = writable_folder(name, given)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{name}={given} is not empty: give a new folder")
    if folder.is_dir():
        _try(name, given, folder.absolute().parent)  # where it is filled under another name
    return folder


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line why ``path`` could not be written.

    Raises:
        AlphaEditError: the disk is full, a folder is in the file's place, …
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise AlphaEditError(f"cannot write {path}: {reason}") from None


@contextmanager
def filled_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place once it is complete; else nothing is left of it.

    Of a process that was killed there stays a folder whose name ends in ``.part``.
    """
    place = folder.absolute()
    unfinished = place.with_name(f"{place.name}.{secrets.token_hex(4)}.part")
    with writing(folder):
        unfinished.mkdir(parents=True)
        rights = unfinished.stat().st_mode & 0o666  # those of new files here
        try:
            yield unfinished
            for path in unfinished.rglob("*"):
                if path.is_file():
                    path.chmod(rights)  # safetensors leaves any to their owner alone
                    with path.open("rb") as stream:
                        os.fsync(stream.fileno())
            unfinished.replace(place)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
