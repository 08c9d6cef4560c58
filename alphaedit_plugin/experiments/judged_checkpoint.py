"""A model that is edited already, asked as a comparison asks; beside it, the model as it was."""

from __future__ import annotations

import gc
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from alphaedit_plugin.common.console import plain_table
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.schema import EvaluationConfig
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.selection import read_data, select_fitting
from alphaedit_plugin.experiments.cell_setup import KNOWN, with_text
from alphaedit_plugin.experiments.results import write_json
from alphaedit_plugin.experiments.tables import number
from alphaedit_plugin.metrics.base import check_scored
from alphaedit_plugin.metrics.evaluation import Evaluation, evaluate
from alphaedit_plugin.metrics.generated import check_asked
from alphaedit_plugin.metrics.known import facts_beside
from alphaedit_plugin.models.editable import EditableModel


@dataclass(frozen=True)
class Judged:
    """What a model was found to answer.

    Attributes:
        now: its evaluation.
        before: that of the reference; ``None`` without one.
    """

    now: Evaluation
    before: Evaluation | None = None

    @property
    def table(self) -> Table:
        """A line per column."""
        summary, before = self.now.summary, self.before.summary if self.before else {}
        table = plain_table(["metric"], ["reference", "model"] if before else ["model"])
        for column, value in summary.items():
            known = [number(before.get(column))] if before else []
            table.add_row(Text(column), *known, number(value))
        return table

    def write(self, path: Path) -> None:
        """Every number, as JSON."""
        before = None if self.before is None else dict(self.before.summary)
        write_json({"model": dict(self.now.summary), "reference": before}, path)


def judge_checkpoint(config: EvaluationConfig) -> Judged:
    """Ask the model, and the reference where there is one; one of them is in memory at a time.

    Raises:
        AlphaEditError: something named there is missing or does not fit.
    """
    asking = config.evaluate
    if asking.facts.data is not None and asking.reference is None:
        raise ConfigError("evaluate.facts needs evaluate.reference, which tells what was known")
    data = with_text(read_data(config), asking, "evaluate.text")
    before = None
    if asking.reference is not None:
        lm = load_model(replace(config.model, path=asking.reference, gguf_file=None, package=None))
        data = _with_facts(lm, _selected(lm, data, config), config)
        before = _ask(lm, data, config)
        del lm
        gc.collect()
    lm = _merged(load_model(config.model), asking.adapter)
    data = _selected(lm, data, config)
    return Judged(_ask(lm, data, config, before), before)


def _selected(lm: EditableModel, data: EditData, config: EvaluationConfig) -> EditData:
    def check(request: Request) -> None:
        check_scored(lm, request)
        check_asked(lm, request, config.evaluate.generation)

    return select_fitting(data, config.data, check)


def _with_facts(lm: EditableModel, data: EditData, config: EvaluationConfig) -> EditData:
    """Facts that must survive, of which the reference decides which were known."""
    source, count = config.evaluate.facts.data, config.evaluate.retention
    if source is None or not count:
        return data
    facts = read_data(replace(config, data=source))
    beside = facts_beside(lm, facts, data.requests, count, config.seed)
    return data if beside is None else replace(data, retention={KNOWN: beside})


def _ask(
    lm: EditableModel, data: EditData, config: EvaluationConfig, before: Evaluation | None = None
) -> Evaluation:
    return evaluate(
        lm, data.requests, data.retention, references=data.references, texts=data.texts,
        before=before, metrics=config.evaluate.asked_metrics, generate=config.evaluate.generation,
    )  # fmt: skip


def _merged(lm: EditableModel, adapter: str | None) -> EditableModel:
    """The model with an adapter's deltas in its weights."""
    if adapter is None:
        return lm
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("evaluate.adapter needs peft: pip install peft")
    if not (Path(adapter).expanduser() / "adapter_config.json").is_file():
        raise ConfigError(f"evaluate.adapter is {adapter}: no adapter_config.json is there")
    from peft import PeftModel

    wrapped: Any = PeftModel.from_pretrained(lm.model, str(Path(adapter).expanduser()))
    return replace(lm, model=wrapped.merge_and_unload().eval())
