"""The ``alphaedit`` command: a command's name, followed by Hydra overrides.

Nothing heavy is imported before a command needs it, so that help comes at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from alphaedit_plugin.errors import AlphaEditError, ConfigError, unknown_name
from alphaedit_plugin.groups import groups, options
from alphaedit_plugin.version import VERSION

HELP_FLAGS = ("-h", "--help")
FAILED, INTERRUPTED = 2, 130
OVERRIDES = "[key=value …]"


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: what is typed.
        summary: what it does, in one line.
        detail: what else its help says.
        examples: complete command lines.
        run: does it, given the overrides; returns the exit status, ``None`` for 0.
        usage: what its overrides look like; those of another look are none of Hydra's.
    """

    name: str
    summary: str
    detail: str
    examples: tuple[str, ...]
    run: Callable[[Sequence[str], Console], int | None]
    usage: str = OVERRIDES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words behind ``alphaedit``; ``None`` takes the process's own.

    Returns:
        The exit status: 0, 2 after an error that is reported in one line, 130 when interrupted;
        that of the script after ``run``, 1 where ``doctor`` found something broken.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    own = typed.index("--") if "--" in typed else len(typed)
    words, script = typed[:own], typed[own:]  # behind "--" nothing is ours to read
    verbose = [word for word in words if word in ("-v", "--verbose")]
    console, errors = Console(), Console(stderr=True)
    _start_logging(errors, logging.INFO if verbose else logging.WARNING)
    try:
        return _dispatch([word for word in words if word not in verbose], script, console)
    except AlphaEditError as error:
        _say(errors, f"alphaedit: error: {' '.join(str(error).split())}")
        return FAILED
    except KeyboardInterrupt:
        _say(errors, "alphaedit: interrupted")
        return INTERRUPTED


def _dispatch(words: list[str], script: list[str], console: Console) -> int:
    commands = {command.name: command for command in _commands()}
    if "--version" in words:
        _say(console, f"alphaedit {VERSION}")
        return 0
    if not words or words[0] in HELP_FLAGS:
        _general_help(console, list(commands.values()))
        return 0
    name, *overrides = words
    if name not in commands:
        hint = f"; put a command first: alphaedit edit {name}" if "=" in name else ""
        raise ConfigError(unknown_name("command", name, commands) + hint)
    if any(flag in overrides for flag in HELP_FLAGS):
        _command_help(console, commands[name])
        return 0
    return commands[name].run([*overrides, *script], console) or 0


def _commands() -> tuple[Command, ...]:
    return (
        Command(
            "edit",
            "edit a model and show what it answers before and after",
            "Edits the request given by request.prompt, request.subject and request.target_new, "
            "or, without, the requests of data=…, in batches of batch_size.",
            (
                "alphaedit edit data.limit=20",
                "alphaedit edit base=rect model=gpt2-xl null_space=true model.layers=[13,14] "
                "request.prompt='The mother tongue of {} is' "
                "request.subject='Danielle Darrieux' request.target_new=English "
                "save=edited/",
            ),
            _edit,
        ),
        Command(
            "compare",
            "run every base method plain and projected, and report the gain",
            "Applies compare.edits sequential edits per cell and writes report.md, metrics.json "
            "and a plot to compare.out.",
            ("alphaedit compare", "alphaedit compare compare.bases=[memit,rect] compare.edits=100"),
            _compare,
        ),
        Command(
            "fit",
            "make a projector file from any text",
            "Collects the second moments of all model.layers in one pass over corpus=… (a text, "
            "JSONL or NPY file, a folder; without, the model's own corpus), goes on where a killed "
            "run was, and writes fit.out. fit.converge=0.1 stops once more text changes nothing. "
            "torchrun --nproc-per-node 2 -m alphaedit_plugin fit … shares the corpus.",
            (
                "alphaedit fit fit.out=pocket.safetensors",
                "alphaedit fit model=gpt2-xl corpus=texts.jsonl projector=auto",
            ),
            _fit,
        ),
        Command(
            "inspect",
            "show a projector's spectrum, its cut, and what leaks through it",
            "Reads a projector file. With a model (model=…) it also measures leakage on held-out "
            "text: corpus=… or, for the pocket model, people it was not fitted on.",
            (
                "alphaedit inspect projector.safetensors",
                "alphaedit inspect pocket.safetensors model=pocket",
            ),
            _inspect,
            "PROJECTOR [key=value …]",
        ),
        Command(
            "config",
            "print the composed configuration as YAML",
            "Every setting, with interpolations resolved; nothing is loaded or run.",
            ("alphaedit config base=rome model=gpt2-xl",),
            _config,
        ),
        Command(
            "run",
            "run a script written for EasyEdit, unchanged, with the null space",
            "Runs SCRIPT as Python would, in EasyEdit with the plug-in registered. --null_space, "
            "--null_space_mode, --null_space_rule, --null_space_cut, --null_space_l2 and "
            "--projector_path are taken off its command line and are the defaults of the hparams "
            "it makes. EasyEdit is found installed, in $EASYEDIT_HOME, or around the script.",
            (
                "alphaedit run -- examples/run_zsre_llama2.py --editing_method MEMIT "
                "--hparams_dir hparams/MEMIT/llama-7b.yaml --data_dir data "
                "--null_space --null_space_cut 0.02",
            ),
            _run,
            "-- SCRIPT [ARGS…]",
        ),
        Command(
            "doctor",
            "say what is installed, what is wrong, and the fix for each",
            "Looks at Python, torch, transformers, EasyEdit, models and cache folders; its exit "
            "status is 1 if something is broken. EasyEdit is optional.",
            ("alphaedit doctor",),
            _doctor,
            "",
        ),
    )


def _edit(overrides: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.config import load_config

    config = load_config(overrides)  # explains a typing error before the heavier imports
    from alphaedit_plugin.edit_run import run_edit
    from alphaedit_plugin.loading import cpu_threads

    _hide_foreign_bars()
    with cpu_threads(config.model.threads):
        run_edit(config, console)


def _compare(overrides: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.compare import run_comparison

    _hide_foreign_bars()
    run_comparison(overrides, console)


def _fit(overrides: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.config import load_config

    config = load_config(overrides)
    from alphaedit_plugin.fit_run import run_fit
    from alphaedit_plugin.loading import cpu_threads

    _hide_foreign_bars()
    with cpu_threads(config.model.threads):
        run_fit(config, console)


def _inspect(words: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.config import load_config

    paths = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(paths) != 1:
        raise ConfigError("inspect takes one projector file: alphaedit inspect PROJECTOR")
    config = load_config(overrides)
    from alphaedit_plugin.inspect_run import run_inspect
    from alphaedit_plugin.loading import cpu_threads

    _hide_foreign_bars()
    with cpu_threads(config.model.threads):
        run_inspect(Path(paths[0]).expanduser(), config, bool(overrides), console)


def _config(overrides: Sequence[str], console: Console) -> None:
    from omegaconf import OmegaConf

    from alphaedit_plugin.config import load_config

    config = OmegaConf.structured(load_config(overrides))
    _say(console, OmegaConf.to_yaml(config, resolve=True).rstrip())


def _run(words: Sequence[str], console: Console) -> int:
    from alphaedit_plugin.easyedit.run import run_script

    return run_script(words)


def _doctor(words: Sequence[str], console: Console) -> int:
    from alphaedit_plugin.doctor import run_doctor

    if words:
        raise ConfigError(f"doctor takes no settings: leave {words[0]!r} away")
    return run_doctor(console)


def _hide_foreign_bars() -> None:
    """Our own progress bars say what takes long; loading a model's shards is not among it."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _general_help(console: Console, commands: Sequence[Command]) -> None:
    _say(console, "Edit a language model with any base method, with and without the null space.\n")
    _say(console, "usage: alphaedit COMMAND [key=value …]\n")
    table = Table.grid(padding=(0, 2, 0, 2))
    for command in commands:
        table.add_row(command.name, command.summary)
    console.print(table)
    _say(console, "\nalphaedit COMMAND --help says more; -v logs more; --version.\n")
    _group_help(console)


def _command_help(console: Console, command: Command) -> None:
    _say(console, f"usage: alphaedit {command.name} {command.usage}".rstrip())
    _say(console, f"\n{command.detail}\n")
    _say(console, "examples:\n" + "\n".join(f"  {line}" for line in command.examples))
    if command.usage == OVERRIDES:
        _say(console, "")
        _group_help(console)


def _group_help(console: Console) -> None:
    _say(console, "choose with:")
    table = Table.grid(padding=(0, 2, 0, 2))
    for group in groups():
        table.add_row(f"{group}=", escape(" | ".join(options(group))))
    table.add_row("null_space=", "true | false")
    console.print(table)
    _say(console, "any other setting: see alphaedit config, e.g. model.layers=[13,14]")


def _say(console: Console, text: str) -> None:
    """Print ``text`` as it is: no markup, no colours, no line breaks of rich's own."""
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _start_logging(errors: Console, level: int) -> None:
    handler = RichHandler(level, errors, show_time=False, show_path=False)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
