"""``alphaedit run``: run a script of EasyEdit's."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import COMMANDS, Command


def _run(words: Sequence[str], console: Console) -> int:
    from alphaedit_plugin.easyedit.run import run_script

    return run_script(words)


COMMANDS.register(
    "run",
    Command(
        "run a script written for EasyEdit, unchanged, with the null space",
        "Runs SCRIPT as Python would, in EasyEdit with the plug-in registered. --null_space, "
        "--null_space_mode, --null_space_rule, --null_space_cut, --null_space_l2, "
        "--null_space_engine and --projector_path are taken off its command line and override the "
        "hparams that it makes. EasyEdit is found installed, in $EASYEDIT_HOME, or around the "
        "script.",
        (
            "alphaedit run -- examples/run_zsre_llama2.py --editing_method MEMIT "
            "--hparams_dir hparams/MEMIT/llama-7b.yaml --data_dir data "
            "--null_space --null_space_cut 0.02",
        ),
        _run,
        usage="-- SCRIPT [ARGS…]",
    ),
)
