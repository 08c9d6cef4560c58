"""``alphaedit compare``: plain against projected."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import COMMANDS, Command
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.experiments.sweep import run_compare


def _run(words: Sequence[str], console: Console) -> None:
    run_compare(words, console)


COMMANDS.register(
    "compare",
    Command(
        "run every base method plain and projected, and report the gain",
        "Applies compare.edits sequential edits per cell, each cell in its own folder in "
        "compare.out, and reports on them there. With -m, any settings are swept by Hydra, on as "
        "many machines as hydra/launcher=cores, slurm or ray_cluster has. The same command goes on "
        "where it was killed.",
        (
            "alphaedit compare",
            "alphaedit compare compare.bases=[memit,rect] compare.edits=100",
            "alphaedit compare -m base=memit,rect null_space=false,true seed=0,1,2",
            "alphaedit compare -m experiment=pocket hydra/launcher=cores",
        ),
        _run,
        ComparisonConfig,
        memory="lower batch_size, model.target.budget or compare.jobs, or set model.dtype=bfloat16",
    ),
)
