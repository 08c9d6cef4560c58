"""``alphaedit tune``: settings for a comparison, with equal effort for both sides."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import COMMANDS, Command
from alphaedit_plugin.config.schema import ComparisonConfig


def _run(words: Sequence[str], console: Console) -> None:
    from alphaedit_plugin.experiments.tuning import run_tune

    run_tune(words, console)


COMMANDS.register(
    "tune",
    Command(
        "find the settings that are best for each base, plain and projected",
        "Tries every combination of compare.tuning.grids with compare.tuning.edits edits, as many "
        "for the plain side as for the projected one, and writes all of them to tuning.md and the "
        "best of each base and side to tuned.yaml, in compare.tuning.out. A comparison with "
        "compare.tuned=runs/tuning gives each cell its own, and leaves out the records that they "
        "were tuned on. The same command goes on where it was killed.",
        (
            "alphaedit tune",
            "alphaedit tune compare.bases=[memit] "
            "'+compare.tuning.grids={memit:{plain:{model.moment_weight:[150,1500]},"
            "null_space:{projector.l2:[1,10]}}}'",
        ),
        _run,
        ComparisonConfig,
        memory="lower batch_size, model.target.budget or compare.jobs, or set model.dtype=bfloat16",
    ),
)
