"""Results that took long, kept in the platform's cache folder under a hash of what made them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import platformdirs

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError
from alphaedit_plugin.common.files import locked

logger = logging.getLogger(__name__)

T = TypeVar("T")

VARIABLE = "ALPHAEDIT_CACHE"  # an environment variable that names another folder
FORMAT = 1  # part of every key: raise it when results of the same key would differ


@dataclass(frozen=True)
class Cache:
    """A folder of results; several processes may use it at once.

    Attributes:
        folder: made when first written to.
    """

    folder: Path

    @classmethod
    def default(cls) -> Cache:
        """The platform's cache folder for this package, or the one ``ALPHAEDIT_CACHE`` names."""
        named = os.environ.get(VARIABLE)
        return cls(
            Path(named).expanduser() if named else platformdirs.user_cache_path("alphaedit_plugin")
        )

    @classmethod
    def usable(cls) -> Cache | None:
        """As `default`; ``None``, with a warning, if nothing can be kept there."""
        cache = cls.default()
        try:
            with locked(cache.folder / "usable.lock"):
                return cache
        except ConfigError as error:
            logger.warning("nothing is cached: %s; name another folder with %s", error, VARIABLE)
            return None

    def path(self, kind: str, key: Mapping[str, object]) -> Path:
        """The file for what ``key`` describes, in the subfolder ``kind``."""
        return self.folder / kind / f"{hash_of(key)}.safetensors"

    def stored(self, path: Path, read: Callable[[Path], T]) -> T | None:
        """What is at ``path``, or ``None``; a damaged file is removed, with a warning."""
        try:
            return read(path) if path.is_file() else None
        except (AlphaEditError, OSError, LookupError, ValueError, TypeError) as error:
            logger.warning("recomputing what the cache held: %s", error)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None

    @staticmethod
    def keep(write: Callable[[], None]) -> None:
        """Write a result; if that fails, only warn."""
        try:
            write()
        except ConfigError as error:
            logger.warning("not cached: %s", error)

    @contextmanager
    def alone(
        self, kind: str, key: Mapping[str, object], level: int = logging.WARNING
    ) -> Iterator[None]:
        """Let one process at a time compute what `path` is for; that others wait is logged."""

        def say_so() -> None:
            logger.log(level, "another process is computing the same %s: waiting for it", kind)

        with locked(self.path(kind, key).with_suffix(".lock"), say_so):
            yield

    def computed(
        self,
        kind: str,
        key: Mapping[str, object],
        compute: Callable[[], T],
        read: Callable[[Path], T],
        write: Callable[[Path, T], None],
        level: int = logging.WARNING,
    ) -> T:
        """What ``key`` describes: read, or else computed and kept, by one process at a time.

        Args:
            kind: see `path`.
            key: see `path`.
            compute: makes it.
            read: see `stored`.
            write: keeps it at a path.
            level: see `alone`.
        """
        path = self.path(kind, key)
        with self.alone(kind, key, level):
            stored = self.stored(path, read)
            if stored is not None:
                return stored
            result = compute()
            self.keep(lambda: write(path, result))
        return result


def hash_of(key: Mapping[str, object]) -> str:
    """Thirty-two hexadecimal digits that differ when anything in ``key`` does."""
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
