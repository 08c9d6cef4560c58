"""The score, and what an evaluation says of data that lack some prompts."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaedit_plugin.data.request import Probe
from alphaedit_plugin.metrics.base import MetricValue
from alphaedit_plugin.metrics.evaluation import Aspect, Evaluation, evaluate, harmonic_mean
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import score
from tests.tiny import REQUESTS


def made(**columns: float) -> Evaluation:
    readings = {name.replace("__", "."): MetricValue(value) for name, value in columns.items()}
    return Evaluation(readings)


def test_the_score_is_the_harmonic_mean_of_what_there_is() -> None:
    found = made(
        efficacy__success=0.5, efficacy__accuracy=0.4, efficacy__magnitude=0.1,
        specificity__success=0.8, specificity__accuracy=0.9,
        retention__seen=1.0, retention__unseen=0.5,
    )  # fmt: skip
    assert found.efficacy == Aspect(0.5, 0.4, 0.1)
    assert found.specificity == Aspect(0.8, 0.9)
    assert found.generalisation is None
    assert found.retention == {"seen": 1.0, "unseen": 0.5}
    assert found.retained == found.summary["retention"] == 0.75  # of groups, not of prompts
    assert found.score == pytest.approx(3 / (1 / 0.5 + 1 / 0.8 + 1 / 0.75))
    alone = made(efficacy__success=1.0, efficacy__accuracy=1.0)
    assert (alone.score, alone.retained) == (1.0, None)


def test_retention_is_of_whole_answers(gpt2: EditableModel) -> None:
    pairs = [("The cats and the", "cats know"), ("Norland is a", "country"), ("Ada", "and")]
    right = [answer.accuracy == 1 for answer in score(gpt2, pairs)]
    probe = Probe(tuple(p for p, _ in pairs), tuple(a for _, a in pairs))
    assert evaluate(gpt2, REQUESTS[:1], {"facts": probe}).retention == {"facts": fmean(right)}


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_harmonic_mean_is_bounded_by_its_parts(values: list[float]) -> None:
    mean = harmonic_mean(values)
    assert min(values) - 1e-12 <= mean <= fmean(values) + 1e-12
    assert harmonic_mean([*values, 0.0]) == 0
