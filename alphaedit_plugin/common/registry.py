"""A typed registry: loud on duplicates, helpful on unknown names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Generic, TypeVar

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind, such as base methods or model layouts.

    Args:
        kind: what is registered, for messages: ``"base method"``.
        package: whose modules register them; all of these are imported when one is first asked
            for.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        """Add ``entry`` under ``name`` and return it.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self._entries:  # asking for the others here would import them in a circle
            raise ConfigError(f"{self.kind} {name!r} is registered already")
        self._entries[name] = entry
        return entry

    def unregister(self, name: str) -> None:
        """Remove ``name``; an unknown name is an error as in `get`."""
        self.get(name)
        del self._entries[name]

    def get(self, name: str, error: type[AlphaEditError] = ConfigError) -> T:
        """The entry called ``name``.

        Raises:
            AlphaEditError: of type ``error``, naming the nearest known names.
        """
        if name not in self._known():
            raise error(unknown_name(self.kind, name, self._entries))
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._known()))  # whichever was imported first

    def __contains__(self, name: object) -> bool:
        return name in self._known()

    def _known(self) -> dict[str, T]:
        package, self._package = self._package, None
        if package is not None:
            for module in iter_modules(import_module(package).__path__):
                import_module(f"{package}.{module.name}")
        return self._entries
