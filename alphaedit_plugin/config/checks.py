"""Settings that are of the right type but make no sense, refused before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alphaedit_plugin.common.errors import ConfigError, first_line, require, unknown_name
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import METHODS, BaseMethod
from alphaedit_plugin.metrics.base import METRICS


def _at_least(least: int) -> Callable[[int], bool]:
    return lambda count: count >= least


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


def _says_something(text: str) -> bool:
    return bool(text.strip())


def _distinct(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def _are_pairs(lengths: Sequence[Sequence[int]]) -> bool:
    return all(len(pair) == 2 and min(pair) >= 1 for pair in lengths)


def _has_slot(path: str) -> bool:
    return path.count("{}") == 1 and path.replace("{}", "").count("{") == 0


# Setting, whether a value is fine, and what it must be; None is fine where its type allows it.
RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("batch_size", _at_least(1), "at least 1"),
    ("seed", lambda seed: 0 <= seed < 2**63, "from 0 to 2**63 - 1"),
    ("save", _says_something, "a folder, or null to save nothing"),
    ("patch", _says_something, "a file, or null to write none"),
    ("journal", _says_something, "a folder, or null to keep none"),
    ("data.limit", _at_least(1), "at least 1, or null for all"),
    ("data.offset", _at_least(0), "at least 0"),
    ("data.shuffle_seed", _at_least(0), "at least 0, or null to leave the order"),
    ("data.path", _says_something, "a file, or null where the data have none"),
    ("data.references", _says_something, "a file, or null for none"),
    ("compare.bases", _distinct, "without repetitions"),
    ("compare.edits", _at_least(1), "at least 1"),
    ("compare.retention", _at_least(0), "at least 0"),
    ("suggest.facts", _at_least(1), "at least 1"),
    ("suggest.samples", _at_least(1), "at least 1"),
    ("suggest.noise", _is_positive, "positive and finite"),
    ("suggest.out", _says_something, "a folder"),
    ("compare.every", _at_least(0), "at least 0, which is only at the end"),
    ("compare.abilities", _distinct, "without repetitions"),
    ("compare.abilities_every", _at_least(0), "at least 0, which is only before and after"),
    ("compare.abilities_limit", _at_least(1), "at least 1, or null for all"),
    ("compare.abilities_shots", _at_least(0), "at least 0, or null for what the task says"),
    ("compare.jobs", _at_least(1), "at least 1, or null for as many as help"),
    ("compare.out", _says_something, "a folder"),
    ("export.out", _says_something, "a folder"),
    ("export.rank", _at_least(1), "at least 1, or null for all"),
    ("model.path", _says_something, "a folder or hub name, or null for the pocket model"),
    ("model.gguf_file", _says_something, "a file in model.path, or null"),
    ("model.package", _says_something, "an installed package, or null"),
    ("model.layout.block", _has_slot, "a path with one {} for the layer's number"),
    ("model.layout.down_proj", _has_slot, "a path with one {} for the layer's number"),
    ("model.moment_weight", _is_positive, "positive and finite"),
    ("model.l2", _is_positive, "positive and finite"),
    ("model.threads", _at_least(1), "at least 1, or null for torch's choice"),
    ("model.contexts.lengths", _are_pairs, "pairs [tokens per text, number of texts], from 1"),
    ("model.moments.texts", _at_least(1), "at least 1, or null for all"),
    ("model.moments.tokens", _at_least(1), "at least 1, or null for all"),
    ("model.moments.written.tokens", _at_least(1), "at least 1, or null for 32 per dimension"),
    ("model.moments.written.length", _at_least(2), "at least 2: the start, and one more"),
    ("model.moments.written.seed", _at_least(0), "at least 0"),
    ("model.moments.stats_samples", _at_least(1), "at least 1"),
    ("model.moments.checkpoint", _at_least(1), "at least 1"),
)


def check(config: EditorConfig) -> None:
    """Refuse what is of the right type but makes no sense, before anything heavy is loaded.

    What belongs together checks itself where it is defined: methods, target settings, cuts.

    Raises:
        ConfigError: what is wrong with which setting.
    """
    for key, holds, what in RULES:
        value = attrgetter(key)(config)
        require(value is None or holds(value), key, repr(value), what)
    method = build_method(config.base)
    method.check_layers(config.model.layers)
    if config.null_space:
        AlphaEdit(method, {}, config.projector.mode, config.projector.l2)
    config.projector.cut.check()
    DATA.get(config.data.name)
    for name in config.compare.bases:
        METHODS.get(name)
    for name in config.compare.metrics or ():
        METRICS.get(name)


def build_method(settings: dict[str, Any]) -> BaseMethod:
    """A plain base method from its ``base`` group.

    Args:
        settings: ``name``, ``span``, and the fields of the method's dataclass.

    Raises:
        ConfigError: an unknown method or field, or a value of the wrong type.
    """
    if not isinstance(settings, dict) or "name" not in settings:
        raise ConfigError("base has no name: choose one with base=…")
    kind = METHODS.get(str(settings["name"]))
    given = {key: value for key, value in settings.items() if key not in ("name", "span")}
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise ConfigError(unknown_name(f"setting of base {settings['name']}", key, known))
    try:
        typed = OmegaConf.structured(kind, flags={"readonly": False})
        return OmegaConf.to_object(OmegaConf.merge(typed, given))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"base.{error.full_key}: {first_line(error)}") from None
