"""A metric is one function, registered by name; what the data lacks gives no column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.data.request import Probe
from alphaedit_plugin.experiments.cell_setup import data_of
from alphaedit_plugin.metrics.base import (
    METRICS,
    EvalContext,
    MetricValues,
    lower_is_better,
    means,
    metric,
)
from alphaedit_plugin.metrics.evaluation import Evaluation, evaluate
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import REQUESTS


@pytest.fixture
def name_length() -> Iterator[str]:
    @metric("name_length", lower=True)
    def read(context: EvalContext) -> MetricValues:
        return means({"name_length": [[float(len(r.subject))] for r in context.requests]})

    yield "name_length"
    METRICS.unregister("name_length")


def test_a_users_metric_is_one_function(gpt2: EditableModel, name_length: str) -> None:
    found = evaluate(gpt2, REQUESTS, {})
    expected = [len(request.subject) for request in REQUESTS]
    assert found.readings[name_length].totals == tuple(expected)
    assert found.summary[name_length] == pytest.approx(sum(expected) / len(expected))
    assert lower_is_better(name_length)
    assert not lower_is_better("efficacy.success")
    assert load_config([f"compare.metrics=[{name_length}]"], ComparisonConfig).compare.metrics == [
        name_length
    ]


def test_only_what_is_asked_for_is_measured(gpt2: EditableModel) -> None:
    found = evaluate(gpt2, REQUESTS, {"facts": Probe(("The",), ("cats",))}, metrics=["retention"])
    columns = {"efficacy.success", "efficacy.accuracy", "retention.facts"}  # efficacy always
    assert set(found.readings) == columns


def test_costly_metrics_can_be_left_out(gpt2: EditableModel) -> None:
    text = ["The cats and the cats know."]
    assert "perplexity" in evaluate(gpt2, REQUESTS, {}, texts=text).readings
    assert "perplexity" not in evaluate(gpt2, REQUESTS, {}, texts=text, costly=False).readings


def test_unknown_and_doubled_names_are_refused(gpt2: EditableModel) -> None:
    with pytest.raises(ConfigError, match="unknown metric 'fluencey'; did you mean 'fluency'"):
        evaluate(gpt2, REQUESTS, {}, metrics=["fluencey"])
    with pytest.raises(ConfigError, match="fluencey"):
        data_of(load_config(["compare.metrics=[fluencey]"], ComparisonConfig))
    with pytest.raises(ConfigError, match="registered already"):
        metric("fluency")(lambda context: {})


def test_data_without_prompts_gives_no_column(gpt2: EditableModel) -> None:
    bare = [replace(request, ground_truth=None) for request in REQUESTS]
    found = evaluate(gpt2, bare, {})
    assert set(found.readings) == {"efficacy.success", "efficacy.accuracy", "rewrite_acc"}


def test_a_brief_evaluation_still_tells_which_edits_hold(gpt2: EditableModel) -> None:
    found: Evaluation = evaluate(gpt2, REQUESTS, {})
    assert found.brief().summary == found.summary
    assert len(found.brief().readings["efficacy.accuracy"].totals) == len(REQUESTS)
    assert found.brief().readings["rewrite_acc"].totals == ()
