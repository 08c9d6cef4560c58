"""General abilities: refused by name without the harness; with it, a local task is really asked."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.experiments.results import read_cell
from alphaedit_plugin.experiments.sweep import run_compare
from alphaedit_plugin.metrics.abilities import PAPER, Abilities
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import score
from examples.train_pocket.world import generate_world
from tests.tiny import assert_same_weights, weights_of

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(
    not INSTALLED, reason="lm_eval is not installed: pip install alphaedit-plugin[eval]"
)
TASK = """
task: people
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of the harness, in files: the pocket world's facts, each with a wrong answer."""
    folder = tmp_path_factory.mktemp("tasks")
    facts = [fact for fact in generate_world().facts if " " not in fact.answer][:40]
    lines = []
    for fact in facts:
        wrong = next(f.answer for f in facts if f.answer != fact.answer)
        choices = [fact.answer, wrong]
        lines.append(json.dumps({"prompt": fact.prompts[0], "choices": choices, "label": 0}))
    (folder / "people.jsonl").write_text("\n".join(lines))
    (folder / "people.yaml").write_text(TASK.format(data=folder / "people.jsonl"))
    return folder


@pytest.fixture(scope="module")
def pocket() -> EditableModel:
    return load_model(load_config().model)


@pytest.mark.skipif(INSTALLED, reason="lm_eval is installed")
def test_without_the_harness_the_error_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install alphaedit-plugin\[eval\]"):
        run_compare(["compare.abilities=[sst]"], Console(quiet=True))


def test_nothing_asked_needs_no_harness() -> None:
    Abilities(()).check()


@needs_harness
def test_the_papers_tasks_are_in_the_harness() -> None:
    Abilities(tuple(PAPER)).check()
    with pytest.raises(ConfigError, match="did you mean 'sst2'"):
        Abilities(("sst-2",)).check()
    with pytest.raises(ConfigError, match="is not a folder of task files"):
        Abilities(("sst",), folder="nowhere").check()


@needs_harness
def test_a_local_task_is_asked(pocket: EditableModel, people: Path) -> None:
    before, state = weights_of(pocket), torch.get_rng_state()
    padding = pocket.tokenizer.pad_token
    found = Abilities(("people",), str(people)).measure(pocket)
    lines = [json.loads(line) for line in (people / "people.jsonl").read_text().splitlines()]
    pairs = [(line["prompt"], choice) for line in lines for choice in line["choices"]]
    answers = score(pocket, pairs)
    right = [answers[i].mean_log_prob > answers[i + 1].mean_log_prob for i in range(0, 80, 2)]
    assert found == {"people.acc": pytest.approx(sum(right) / 40)}
    assert found["people.acc"] > 0.9
    assert_same_weights(pocket, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert pocket.tokenizer.pad_token == padding


@needs_harness
def test_a_comparison_asks_before_during_and_after(people: Path, tmp_path: Path) -> None:
    folders = run_compare(
        ["compare.bases=[memit]", "compare.edits=12", "batch_size=4", "compare.every=1",
         "model.target.steps=5", "model.moments.tokens=3000", "compare.retention=10",
         "compare.abilities=[people]", "compare.abilities_every=2", "compare.jobs=1",
         f"compare.abilities_folder={people}", "compare.abilities_limit=10",
         f"compare.out={tmp_path}"],
        Console(quiet=True),
    )  # fmt: skip
    for cell in map(read_cell, folders):
        assert list(cell.abilities) == [0, 8, 12]
        assert cell.abilities[0] == {"people.acc": 1.0}


@needs_harness
def test_data_that_is_not_there_is_an_error_of_ours(
    pocket: EditableModel, people: Path, tmp_path: Path
) -> None:
    text = (people / "people.yaml").read_text().replace("people.jsonl", "nowhere.jsonl")
    (tmp_path / "people.yaml").write_text(text)
    with pytest.raises(AlphaEditError, match=r"compare\.abilities: people cannot be asked"):
        Abilities(("people",), str(tmp_path)).measure(pocket)
