"""The flag, as a user of EasyEdit sets it: a few keys among the host's own hparams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import Enum
from os import PathLike, fspath
from typing import Any, get_type_hints

from alphaedit_plugin.common.errors import ConfigError, unknown_name
from alphaedit_plugin.nullspace.cut import Cut, CutRule, Mode

PUBLISHED = 2e-2  # AlphaEdit's absolute cut


class Engine(str, Enum):
    """Whose functions search targets and write deltas.

    ``host``: EasyEdit's, with the projector inside. ``native``: ours, plain as well as projected.
    """

    host = "host"
    native = "native"


@dataclass
class NullSpaceFlag:
    """Keys that ``hparams`` take in Python and YAML once the plug-in is registered.

    Attributes:
        null_space: the flag itself.
        null_space_mode: ``auto`` is ``solve`` for MEMIT, PRUNE and RECT, else ``post``.
        null_space_rule: how ``null_space_cut`` is meant.
        null_space_cut: where the null space begins; AlphaEdit's 2e-2, or 1 for ``auto``.
        null_space_l2: AlphaEdit's ridge, in ``solve`` mode.
        null_space_engine: for ROME and MEMIT; ``native`` searches a batch together.
        projector_path: a projector file of ours instead of one fitted to the host's statistics.
    """

    null_space: bool = False
    null_space_mode: Mode = Mode.auto
    null_space_rule: CutRule = CutRule.absolute
    null_space_cut: float = PUBLISHED
    null_space_l2: float = 10.0
    null_space_engine: Engine = Engine.host
    projector_path: str | None = None

    @classmethod
    def of(cls, hparams: Any, defaults: Mapping[str, Any] | None = None) -> NullSpaceFlag:
        """The keys as set on ``hparams``; ``defaults``, or our own, where they are not.

        Raises:
            ConfigError: a value of another type, or an attribute that must be a misspelt key.
        """
        for name in vars(hparams):
            if name.startswith(LOOKS_LIKE_OURS) and name not in KEYS:
                raise ConfigError(unknown_name("key in hparams", name, KEYS))
        given = {key: getattr(hparams, key) for key in KEYS if hasattr(hparams, key)}
        return cls.read({**(defaults or {}), **given})

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> NullSpaceFlag:
        """Some of the keys; a number may be text, as YAML reads ``2e-2``, and a path an object.

        Raises:
            ConfigError: a value of another type.
        """
        hints = get_type_hints(NullSpaceFlag)
        return NullSpaceFlag(**{key: _typed(key, v, hints[key]) for key, v in values.items()})

    @property
    def cut(self) -> Cut:
        """The projector's cut.

        Raises:
            ConfigError: the published cut with another rule, to which it means nothing.
        """
        value, rule = self.null_space_cut, self.null_space_rule
        if value == PUBLISHED and rule is CutRule.auto:
            value = 1.0
        elif value == PUBLISHED and rule is not CutRule.absolute:
            raise ConfigError(f"null_space_rule: {rule.value} needs a null_space_cut, too")
        return Cut(rule, value)

    def solves(self, method: str, able: bool) -> bool:
        """Whether AlphaEdit's closed form is asked for.

        Args:
            method: the host's name of the base method.
            able: whether that method can take the closed form.

        Raises:
            ConfigError: ``solve`` where there is nothing to solve, or a ridge that is not positive.
        """
        if self.null_space_mode is Mode.solve and not able:
            raise ConfigError(
                f"null_space_mode: solve replaces a least-squares solution: {method} takes post"
            )
        solves = able and self.null_space_mode is not Mode.post
        if solves and not self.null_space_l2 > 0:
            raise ConfigError(f"null_space_l2 is {self.null_space_l2}: it must be positive")
        return solves


KEYS = tuple(f.name for f in fields(NullSpaceFlag))
# Attributes can be set under any name: a misspelt flag would leave the null space off, unnoticed.
LOOKS_LIKE_OURS = ("null", "projector")


def _typed(key: str, value: Any, hint: Any) -> Any:
    """``value`` in the type of its key."""
    if hint is bool and isinstance(value, bool):
        return value
    if hint is float and not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            if math.isfinite(number := float(value)):
                return number
    if isinstance(hint, type) and issubclass(hint, Enum):
        names = [option.value for option in hint]
        if value not in names:
            raise ConfigError(unknown_name(key, str(value), names))
        return hint(value)
    if hint not in (bool, float) and (value is None or isinstance(value, (str, PathLike))):
        return value if value is None else fspath(value)
    needed = {bool: "true or false", float: "a number"}.get(hint, "a path")
    raise ConfigError(f"{key} is {value!r}: give {needed}")
