"""Files and folders that are written whole or not at all, or refused before a long run."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from alphaedit_plugin.common.errors import ConfigError, first_line


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line why ``path`` could not be written inside.

    Raises:
        ConfigError: the disk is full, a folder is in the file's place, …
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be written: {_reason(error)}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write inside, which replaces ``path`` on exit; on an error ``path`` stays.

    Raises:
        ConfigError: it cannot be written.
    """
    unfinished = _beside(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.touch()
            mode = unfinished.stat().st_mode
            yield unfinished
            _settle(unfinished, mode)
            unfinished.replace(path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


@contextmanager
def filled_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill inside, which becomes ``folder`` on exit; on an error nothing is left.

    A process that is killed leaves a folder whose name ends in ``.part``.

    Args:
        folder: new, or empty.

    Raises:
        ConfigError: it cannot be written.
    """
    target = folder.absolute()
    unfinished = _beside(target)
    with writing(folder):
        unfinished.mkdir(parents=True)
        mode = unfinished.stat().st_mode & 0o666  # that of new files here
        try:
            yield unfinished
            for path in unfinished.rglob("*"):
                if path.is_file():
                    _settle(path, mode)
            unfinished.replace(target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep other processes out; ``on_wait`` is called before this one has to wait.

    Raises:
        ConfigError: there can be no such file, or no locks where it is.
    """
    lock = FileLock(path)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        except NotImplementedError as error:
            raise OSError(f"its files cannot be locked ({error})") from None
    try:
        yield
    finally:
        lock.release()


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")


def _settle(path: Path, mode: int) -> None:
    """Give a file its rights (safetensors grants its owner alone any), and write it to disk."""
    path.chmod(mode)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Without it a power cut may take the file's new name, though not what is in it."""
    with suppress(OSError):  # where a folder cannot be opened, as on Windows
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written.

    Raises:
        ConfigError: it is a folder, or in a folder that cannot be made or written to.
    """
    with writing(path):
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _beside(path)
        probe.touch()
        probe.unlink()


def writable_folder(name: str, given: str) -> Path:
    """A folder that a long run will write to, tried now; nothing is left there.

    Args:
        name: of the setting, for the message.
        given: its value.

    Raises:
        ConfigError: it or a folder above it is a file, or nothing can be written there.
    """
    folder = Path(os.path.expanduser(given))
    above = (folder.absolute(), *folder.absolute().parents)
    existing = next(path for path in above if os.path.lexists(path))
    if not existing.is_dir():
        raise ConfigError(f"{name}={given} cannot be written: {existing} is a file; give a folder")
    _try_folder(name, given, existing)
    return folder


def empty_folder(name: str, given: str) -> Path:
    """As `writable_folder`, and refused where it holds anything."""
    folder = writable_folder(name, given)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{name}={given} is not empty: give a new folder")
    if folder.is_dir():
        _try_folder(name, given, folder.absolute().parent)  # `filled_folder` works beside it
    return folder


def _try_folder(name: str, given: str, existing: Path) -> None:
    """Make a folder and remove it: permissions alone say little to root, or of /proc."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".alphaedit-", dir=existing))
    except OSError as error:
        raise ConfigError(
            f"{name}={given} cannot be written: nothing can be made in {existing} "
            f"({error.strerror})"
        ) from None


def is_file(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        ConfigError: the path cannot be accessed.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return "what should be its folder is a file"
    return getattr(error, "strerror", None) or first_line(error)
