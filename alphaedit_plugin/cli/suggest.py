"""``alphaedit suggest``: layers and a cut for a model that has no settings yet."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alphaedit_plugin.cli.base import ANY_LAYER, COMMANDS, Command, working
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import SuggestionConfig


def _run(overrides: Sequence[str], console: Console) -> None:
    config = load_config([ANY_LAYER, *overrides], SuggestionConfig)
    from alphaedit_plugin.experiments.suggest import run_suggest

    with working(config):
        run_suggest(config, console)


COMMANDS.register(
    "suggest",
    Command(
        "propose layers and a cut for a model, from the model itself",
        "Takes facts of data=… that the model answers right, corrupts them with noise on the "
        "subject, and measures in which layers restoring the subject restores the answer (causal "
        "tracing, Meng et al. 2022); then what each cut would leave of these layers' spectra. "
        "Writes model.yaml and a plot to suggest.out.",
        (
            "alphaedit suggest suggest.out=runs/suggest",
            "alphaedit suggest model=custom model.path=EleutherAI/pythia-410m corpus=texts.jsonl "
            "data=counterfact data.path=counterfact.json",
        ),
        _run,
        SuggestionConfig,
    ),
)
