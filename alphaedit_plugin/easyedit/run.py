"""``alphaedit run -- SCRIPT``: a script written for EasyEdit, unchanged, with the plug-in in it.

Our flags are taken off the script's command line and set on every hparams object that it makes of a
supported method. When the script has ended everything is as it was before.
"""

from __future__ import annotations

import argparse
import logging
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from alphaedit_plugin.common.errors import ConfigError, unknown_name
from alphaedit_plugin.easyedit.find_host import import_host
from alphaedit_plugin.easyedit.hparams import KEYS, NullSpaceFlag
from alphaedit_plugin.easyedit.patch_loop import replaced
from alphaedit_plugin.easyedit.registration import current, register, unregister

log = logging.getLogger(__name__)

USAGE = "write alphaedit run -- SCRIPT [ARGS…]"
SWITCH = "--null_space"
BOOLEANS = {"true": True, "false": False}


def run_script(words: Sequence[str]) -> int:
    """Run a script as ``python SCRIPT`` would, with the plug-in registered.

    Args:
        words: ``--``, the script, and its command line with our flags among it.

    Returns:
        The script's exit status.

    Raises:
        ConfigError: no ``--``, no such script, a flag that is wrong, or a method that cannot take
            the flag.
        HostError: there is no host, or it cannot be imported.
        Exception: whatever the script raises.
    """
    if not words or words[0] != "--":
        raise ConfigError(f"{USAGE}: what follows -- belongs to the script")
    if len(words) == 1:
        raise ConfigError(f"no script given: {USAGE}")
    script = words[1]
    if not Path(script).is_file():
        raise ConfigError(f"no script at {script}")
    flags, arguments = take_flags(words[2:])
    process = {"argv": [script, *arguments], "path": list(sys.path)}
    with (
        _root_logging_as_in_python(),
        replaced(sys, process),
        plugged_in(flags, Path(script)) as flagged,
    ):
        # As in Python; only now, as finding the host may put its folder in front.
        sys.path.insert(0, str(Path(script).resolve().parent))
        try:
            runpy.run_path(script, run_name="__main__")
            status = 0
        except SystemExit as end:
            status = _exit_status(end)
    if flags and not flagged and status == 0:
        log.warning("%s made no hparams of a method that takes the flag", script)
    return status


def take_flags(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Our flags in their types, and the other words of a command line; a ``--`` ends the flags.

    Raises:
        ConfigError: an unknown flag that begins like ours, or a wrong value or none.
    """
    end = words.index("--") if "--" in words else len(words)
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument(SWITCH, type=lambda text: BOOLEANS.get(text.lower(), text))
    for key in KEYS[1:]:
        parser.add_argument(f"--{key}")
    spelt = [  # the switch may stand alone, before a word of the script's
        f"{SWITCH}=true" if word == SWITCH and follows.lower() not in BOOLEANS else word
        for word, follows in zip(words[:end], [*words[1:end], ""], strict=False)
    ]
    given, rest = parser.parse_known_args(spelt)
    for word in rest:
        name = word.partition("=")[0]
        if name.replace("-", "_").startswith("__null_space"):
            raise ConfigError(unknown_name("flag", name, [f"--{key}" for key in KEYS]))
    for key, value in vars(given).items():
        if value == "":
            raise ConfigError(f"--{key} needs a value")
    settings = NullSpaceFlag.read(vars(given))
    _ = settings.cut, settings.solves("MEMIT", able=True)  # refused before a model is loaded
    typed = {key: getattr(settings, key) for key in vars(given)}
    flags = {key: getattr(value, "value", value) for key, value in typed.items()}
    if flags and "null_space" not in flags:
        log.warning(
            "%s is not among the flags: --%s counts only where the script's own hparams set "
            "null_space", SWITCH, next(iter(flags)),
        )  # fmt: skip
    return flags, [*rest, *words[end:]]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise ConfigError(message)


@contextmanager
def plugged_in(flags: Mapping[str, Any], script: Path | None = None) -> Iterator[list[str]]:
    """Have the plug-in registered, with these flags in all new hparams; undone on exit.

    Yields:
        The names of the hparams classes of which objects took the flags, as they are made.

    Raises:
        HostError: see `import_host`, which looks around ``script``, too.
    """
    import_host(script)
    before = current()
    register()
    registration = current()
    assert registration is not None
    registration.flags, registration.flagged = flags, []
    try:
        yield registration.flagged
    finally:
        registration.flags = {}
        if before is None:
            unregister()


@contextmanager
def _root_logging_as_in_python() -> Iterator[None]:
    """Leave the root logger to the script: our command line's handlers serve us alone."""
    root, ours = logging.getLogger(), logging.getLogger(__name__.partition(".")[0])
    before = root.handlers[:], root.level, ours.handlers[:], ours.level, ours.propagate
    root.handlers[:], ours.handlers[:] = [], [*ours.handlers, *root.handlers]
    ours.propagate = False
    ours.setLevel(root.level)
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:], _, ours.handlers[:], _, ours.propagate = before
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
