"""What ``alphaedit tune`` has chosen, as a comparison reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from alphaedit_plugin.common.errors import ConfigError, first_line
from alphaedit_plugin.common.validation import STRICT

TUNED = "tuned.yaml"


def side_of(null_space: bool) -> str:
    """The name of a side in settings and files."""
    return "null_space" if null_space else "plain"


def prompt_digest(prompt: str) -> str:
    """Identifies a prompt without keeping its text, which may be somebody's data."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


@dataclass(config=STRICT, frozen=True)
class Tuned:
    """The best settings found, and what they were found on.

    Attributes:
        settings: base → side → overrides.
        asked: `prompt_digest` of every edit and untouched fact of the trials.
    """

    settings: dict[str, dict[str, list[str]]]
    asked: list[str]

    def overrides(self, base: str, null_space: bool) -> Sequence[str]:
        """The settings of a cell.

        Raises:
            ConfigError: the base, or the side, was not tuned.
        """
        sides: Mapping[str, list[str]] = self.settings.get(base, {})
        if side_of(null_space) not in sides:
            raise ConfigError(
                f"no {side_of(null_space)} settings were tuned for base {base!r}, only for "
                f"{', '.join(self.settings)}: run alphaedit tune compare.bases=[{base}]"
            )
        return sides[side_of(null_space)]


def read_tuned(path: str) -> Tuned:
    """Read ``tuned.yaml``, or the one in a folder.

    Raises:
        ConfigError: it is missing or damaged.
    """
    file = Path(path).expanduser()
    file = file / TUNED if file.is_dir() else file
    try:
        return Tuned(**yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"compare.tuned={path} cannot be read ({error.strerror}): give the folder that "
            "alphaedit tune has written"
        ) from None
    except (yaml.YAMLError, ValidationError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} is not what alphaedit tune writes: {first_line(error)}"
        ) from None
