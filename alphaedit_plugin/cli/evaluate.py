"""``alphaedit evaluate``: ask a model that was edited before, by whatever tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from alphaedit_plugin.cli.base import ANY_LAYER, COMMANDS, Command, working
from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.files import require_writable
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import EvaluationConfig


def _run(overrides: Sequence[str], console: Console) -> None:
    config = load_config([ANY_LAYER, *overrides], EvaluationConfig)
    out = None if config.evaluate.out is None else Path(config.evaluate.out).expanduser()
    if out is not None:
        require_writable(out)
    from alphaedit_plugin.experiments.judged_checkpoint import judge_checkpoint

    with working(config):
        judged = judge_checkpoint(config)
    console.print(judged.table)
    if out is not None:
        judged.write(out)
        say(console, f"every column is in {out}")


COMMANDS.register(
    "evaluate",
    Command(
        "judge a model that was edited already, by whatever tool",
        "Asks model=… the edits of data=… and all that surrounds them, as compare does after its "
        "edits; nothing is edited. evaluate.reference=…, the model as it was, stands beside it, "
        "says which facts were known, and is what locality is measured against. "
        "evaluate.adapter=… merges a peft adapter first.",
        (
            "alphaedit evaluate model=custom model.path=edited/ data.limit=20",
            "alphaedit evaluate model=custom model.path=edited/ evaluate.reference=gpt2-xl "
            "data=counterfact data.path=counterfact.json",
            "alphaedit evaluate model=gpt2-xl evaluate.adapter=adapter/ "
            "'evaluate.generate.protocols=[bare]'",
        ),
        _run,
        EvaluationConfig,
    ),
)
