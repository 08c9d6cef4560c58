"""The flag, as a user of EasyEdit sets it: a few keys among the host's own hparams."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from os import PathLike
from types import NoneType
from typing import Any, get_type_hints

from alphaedit_plugin.common.errors import ConfigError, unknown_name
from alphaedit_plugin.nullspace.cut import Cut, CutRule, Mode

PUBLISHED = 2e-2  # AlphaEdit's absolute cut


@dataclass
class NullSpaceFlag:
    """Keys that ``hparams`` take in Python and YAML once the plug-in is registered.

    Attributes:
        null_space: the flag itself.
        null_space_mode: ``solve``, ``post``, or ``auto``: ``solve`` for MEMIT, PRUNE and
            RECT, else ``post``.
        null_space_rule: how ``null_space_cut`` is meant: ``absolute``, ``energy``, ``rank`` or
            ``auto``.
        null_space_cut: where the null space begins; AlphaEdit's 2e-2, or 1 for ``auto``.
        null_space_l2: AlphaEdit's ridge, in ``solve`` mode.
        projector_path: a projector file of ours instead of one fitted to the host's statistics.
    """

    null_space: bool = False
    null_space_mode: str = "auto"
    null_space_rule: str = "absolute"
    null_space_cut: float = PUBLISHED
    null_space_l2: float = 10.0
    projector_path: str | None = None

    @classmethod
    def of(cls, hparams: Any) -> NullSpaceFlag:
        """The keys as set on ``hparams``; defaults where they are not.

        Raises:
            ConfigError: a value of another type, or an attribute that must be a misspelt key.
        """
        for name in vars(hparams):
            if name.startswith(LOOKS_LIKE_OURS) and name not in KEYS:
                raise ConfigError(unknown_name("key in hparams", name, KEYS))
        hints = get_type_hints(cls)
        given = {key: getattr(hparams, key) for key in KEYS if hasattr(hparams, key)}
        return cls(**{key: _checked(key, value, hints[key]) for key, value in given.items()})

    @property
    def cut(self) -> Cut:
        """The projector's cut.

        Raises:
            ConfigError: an unknown rule; the message names the nearest.
        """
        known = [rule.value for rule in CutRule]
        if self.null_space_rule not in known:
            raise ConfigError(unknown_name("null_space_rule", self.null_space_rule, known))
        rule, value = CutRule(self.null_space_rule), float(self.null_space_cut)
        if rule is not CutRule.absolute and value == PUBLISHED:  # which means nothing to others
            if rule is not CutRule.auto:
                raise ConfigError(
                    f"null_space_rule: {rule.value} needs a null_space_cut of its own"
                )
            value = 1.0
        return Cut(rule, value)

    def solves(self, method: str, able: bool) -> bool:
        """Whether AlphaEdit's closed form is asked for.

        Args:
            method: the host's name of the base method.
            able: whether that method can take the closed form.

        Raises:
            ConfigError: an unknown mode, or ``solve`` where there is nothing to solve.
        """
        known = [mode.value for mode in Mode]
        if self.null_space_mode not in known:
            raise ConfigError(unknown_name("null_space_mode", self.null_space_mode, known))
        if self.null_space_mode == Mode.solve and not able:
            raise ConfigError(f"null_space_mode: solve is a least squares: {method} takes post")
        if able and self.null_space_mode != Mode.post:
            if not float(self.null_space_l2) > 0:
                raise ConfigError(f"null_space_l2 is {self.null_space_l2}: it must be positive")
            return True
        return False


KEYS = tuple(f.name for f in fields(NullSpaceFlag))
# Attributes can be set under any name: a misspelt flag would leave the null space off, unnoticed.
LOOKS_LIKE_OURS = ("null", "projector")


def _checked(key: str, value: Any, hint: Any) -> Any:
    """``value`` in the type of its key; text that YAML reads as a number counts as one."""
    if hint is bool and isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError):
            return float(value)
    if hint is str and isinstance(value, str):
        return value
    if hint not in (bool, float, str) and isinstance(value, (str, PathLike, NoneType)):
        return value if value is None else str(value)
    wanted = {bool: "true or false", float: "a number", str: "a name"}.get(hint, "a path")
    raise ConfigError(f"{key} is {value!r}: give {wanted}")
