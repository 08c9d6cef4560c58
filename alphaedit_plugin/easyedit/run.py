"""``alphaedit run -- SCRIPT``: a script written for EasyEdit, unchanged, with the plug-in in it.

Our flags are taken off the script's command line and set on every hparams object that it makes of a
supported method. When the script has ended everything is as it was before.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from alphaedit_plugin.common.errors import ConfigError, unknown_name
from alphaedit_plugin.easyedit.host import (
    clone_around,
    copies,
    find_clone,
    hparams_classes,
    import_host,
    methods_of,
)
from alphaedit_plugin.easyedit.hparams import KEYS, NullSpaceFlag
from alphaedit_plugin.easyedit.prune_rect import NATIVE
from alphaedit_plugin.easyedit.registration import (
    Coverage,
    is_registered,
    newcomers,
    register,
    unregister,
)

log = logging.getLogger(__name__)

BOOLEANS = {"true": True, "false": False}
USAGE = "write alphaedit run -- SCRIPT [ARGS…]"


@dataclass(frozen=True)
class Invocation:
    """What was typed behind ``alphaedit run``.

    Attributes:
        script: path of the script, as typed.
        arguments: what is left of its command line.
        flags: ours, by key of `NullSpaceFlag`, in their types.
    """

    script: str
    arguments: list[str]
    flags: dict[str, Any]

    @classmethod
    def parse(cls, words: Sequence[str]) -> Invocation:
        """Read ``-- SCRIPT [ARGS…]``.

        Raises:
            ConfigError: no ``--``, no such script, or one of our flags is wrong.
        """
        if not words or words[0] != "--":
            raise ConfigError(f"{USAGE}: what stands behind -- is the script's own")
        if len(words) == 1:
            raise ConfigError(f"no script given: {USAGE}")
        script = words[1]
        if not Path(script).is_file():
            raise ConfigError(f"no script at {script}")
        flags, arguments = take_flags(words[2:])
        return cls(script, arguments, flags)


def run_script(words: Sequence[str]) -> int:
    """Run a script as ``python SCRIPT`` would, with the plug-in registered.

    Args:
        words: ``--``, the script, and its command line with our flags among it.

    Returns:
        The script's exit status.

    Raises:
        ConfigError: see `Invocation.parse`; or the flag is on and a method cannot take it.
        HostError: there is no host, or it cannot be imported.
        Exception: whatever the script raises.
    """
    asked = Invocation.parse(words)
    with ExitStack() as stack:
        stack.enter_context(_root_logging_as_in_python())
        stack.enter_context(_command_line(asked))
        taken = stack.enter_context(plugged_in(asked.flags))
        # As in Python; only now, as finding the host may put its folder in front.
        sys.path.insert(0, str(Path(asked.script).resolve().parent))
        try:
            runpy.run_path(asked.script, run_name="__main__")
            status = 0
        except SystemExit as end:
            status = _exit_status(end)
    if asked.flags and not taken and status == 0:
        log.warning("%s made no hparams of a method that takes the flag", asked.script)
    return status


def take_flags(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Part our flags from a script's command line.

    Args:
        words: the command line; a ``--`` in it ends the flags.

    Returns:
        Our flags in their types, and the other words in their order.

    Raises:
        ConfigError: an unknown flag that begins like ours, a value that is none, or none at all.
    """
    flags: dict[str, Any] = {}
    left, rest = list(words), []
    while left:
        word = left.pop(0)
        if word == "--":
            rest += [word, *left]
            break
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in KEYS:
            _refuse_near(word, name)
            rest.append(word)
        elif equals:
            flags[name] = _typed(name, value)
        elif _hint(name) is bool:
            follows = bool(left) and left[0].lower() in BOOLEANS
            flags[name] = _typed(name, left.pop(0)) if follows else True
        else:
            follows = bool(left) and not left[0].startswith("--")
            flags[name] = _typed(name, left.pop(0) if follows else "")
    settings = NullSpaceFlag(**flags)
    # A mistyped name is told now, not after a large model is loaded.
    _ = settings.cut
    if flags and "null_space" not in flags:
        log.warning(
            "--null_space is not among the flags: --%s counts only where the script's own hparams "
            "set null_space", next(iter(flags)),
        )  # fmt: skip
    settings.solves("MEMIT", able=True)
    return flags, rest


@contextmanager
def plugged_in(flags: Mapping[str, Any]) -> Iterator[list[str]]:
    """Have the plug-in registered, with these flags in all new hparams; undone on exit.

    A flag goes before what a YAML file or a call says about its key, with a warning.

    Yields:
        The names of the hparams classes of which objects were made, as they are made.

    Raises:
        HostError: there is no host, or it cannot be imported.
        ConfigError: hparams are made of a method that cannot take the flag.
    """
    taken: list[str] = []
    with registered(), ExitStack() as stack:

        def flag(package: str) -> None:
            able = [method.hparams_class() for method in methods_of(package)]
            for kind in able:
                stack.enter_context(_typed_first(kind, flags, taken))
            if flags.get("null_space"):  # the others refuse it, before a large model is loaded
                for kind in set(hparams_classes(package)).difference(able):
                    stack.enter_context(_typed_first(kind, {"null_space": True}, []))

        for native in NATIVE:
            stack.enter_context(_typed_first(native, flags, taken))
        for package in copies():
            flag(package)
        listeners = newcomers().listeners
        listeners.append(flag)
        stack.callback(listeners.remove, flag)
        yield taken


@contextmanager
def registered() -> Iterator[Coverage]:
    """Have the plug-in registered; on exit only if it was so before.

    Raises:
        HostError: there is no host, or it cannot be imported.
    """
    import_host()
    before = is_registered()
    coverage = register()
    try:
        yield coverage
    finally:
        if not before:
            unregister()


@contextmanager
def _typed_first(hparams_class: Any, flags: Mapping[str, Any], taken: list[str]) -> Iterator[None]:
    constructor = hparams_class.__init__

    @functools.wraps(constructor)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        for key, value in flags.items():
            if kwargs.get(key, value) != value:
                said = f"{hparams_class.__name__} has {key}: {kwargs[key]}"
                log.warning("--%s %s goes before what %s", key, value, said)
        taken.append(hparams_class.__name__)
        constructor(self, *args, **{**kwargs, **flags})

    hparams_class.__init__ = __init__
    try:
        yield
    finally:
        if hparams_class.__init__ is __init__:  # else the script itself has unregistered
            hparams_class.__init__ = constructor


@contextmanager
def _command_line(asked: Invocation) -> Iterator[None]:
    """The script's ``sys.argv``; EasyEdit on ``sys.path``; both as before on exit."""
    argv, path, entries = sys.argv, sys.path, list(sys.path)
    sys.argv = [asked.script, *asked.arguments]
    sys.path.extend(_clone_around(Path(asked.script).resolve()))
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path
        path[:] = entries


def _clone_around(script: Path) -> list[str]:
    """The clone of EasyEdit that the script is in, where there is no other."""
    if "easyeditor" in sys.modules or importlib.util.find_spec("easyeditor") is not None:
        return []
    clone = None if find_clone() else clone_around(*script.parents)
    return [str(clone)] if clone else []


@contextmanager
def _root_logging_as_in_python() -> Iterator[None]:
    """Leave the root logger to the script: our command line's handlers serve us alone."""
    root, ours = logging.getLogger(), logging.getLogger(__name__.partition(".")[0])
    before = root.handlers[:], root.level, ours.handlers[:], ours.level, ours.propagate
    for handler in before[0]:
        root.removeHandler(handler)
        ours.addHandler(handler)
    ours.setLevel(root.level)
    ours.propagate = False
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:], ours.handlers[:], ours.propagate = before[0], before[2], before[4]
        root.setLevel(before[1])
        ours.setLevel(before[3])


def _exit_status(end: SystemExit) -> int:
    """What Python makes of ``sys.exit(…)``: a text is an error message."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    sys.stderr.write(f"{end.code}\n")
    return 1


def _refuse_near(word: str, name: str) -> None:
    if word.startswith("--") and name.replace("-", "_").startswith("null_space"):
        raise ConfigError(unknown_name("flag", f"--{name}", [f"--{key}" for key in KEYS]))


def _hint(key: str) -> Any:
    return get_type_hints(NullSpaceFlag)[key]


def _typed(key: str, value: str) -> Any:
    """``value`` in the type of the flag's field."""
    if not value:
        raise ConfigError(f"--{key} needs a value")
    hint = _hint(key)
    if hint is bool:
        if value.lower() not in BOOLEANS:
            raise ConfigError(f"--{key} is {value!r}: use true or false")
        return BOOLEANS[value.lower()]
    if hint is float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"--{key} is {value!r}, which is no number")
        return number
    return value
