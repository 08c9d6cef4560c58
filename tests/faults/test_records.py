"""Records that cannot be edited or asked: each costs itself, never the run, in every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.experiments.cell_setup import set_up
from alphaedit_plugin.metrics.base import check_scored
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.journal import Journal
from tests.saved import overrides_of
from tests.tiny import CONTEXT, REQUESTS, target_ids

Capture = pytest.CaptureFixture[str]
Log = pytest.LogCaptureFixture
LONG = "Ada Marsh speaks " * CONTEXT
GOOD: list[dict[str, Any]] = [
    {"prompt": r.filled, "subject": r.subject, "target_new": r.target_new} for r in REQUESTS
]
BAD: dict[str, dict[str, Any]] = {
    "prompt": GOOD[0] | {"prompt": LONG + "Zoë", "subject": "Zoë"},
    "old answer": GOOD[0] | {"ground_truth": LONG},
    "alias": GOOD[0] | {"accept": [LONG]},
    "rephrasing": GOOD[0] | {"rephrase": ["Who?", LONG]},
    "locality": GOOD[0] | {"locality": {"other": {"prompt": LONG, "ground_truth": "x"}}},
    "portability": GOOD[0] | {"portability": {"hop": {"prompt": "So?", "ground_truth": LONG}}},
}
MERGED = {"prompt": "The cats are", "subject": "cat", "target_new": "Rome"}


@pytest.fixture
def words(saved: Path) -> Callable[..., list[str]]:
    """What a command is told of records in a file."""

    def written(*records: dict[str, Any]) -> list[str]:
        path = saved / "edits.json"
        path.write_text(json.dumps(records))
        chosen = [*overrides_of(saved), "data=plain", f"data.path={path}"]
        return [*chosen, "model.target.steps=2", f"model.moments.corpus={saved / 'text.txt'}"]

    return written


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_edit_goes_on_with_others(
    words: Callable[..., list[str]], bad: dict[str, Any], tmp_path: Path, caplog: Log
) -> None:
    journal = tmp_path / "j"
    chosen = [*words(bad, *GOOD), "null_space=false", "batch_size=1", f"journal={journal}"]
    assert main(["edit", *chosen, "data.limit=3"]) == 0
    asked = [
        request.filled for entry in Journal.read(journal).entries for request in entry.requests
    ]
    assert asked == [row["prompt"] for row in GOOD[:3]]
    (said,) = [message for message in caplog.messages if "dropped" in message]
    assert said.startswith("plain, edits.json: 1 record dropped: 1 × ")
    assert f"the model's context is {CONTEXT} [record 0]" in said


def test_an_error_is_there_for_those_who_want_it(
    words: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    chosen = [*words(GOOD[1], BAD["locality"]), "null_space=false", "data.strict=true"]
    for command in ("edit", "compare"):
        assert main([command, *chosen[: -2 if command == "compare" else None], *chosen[-1:]]) == 2
        error = capsys.readouterr().err
        assert "plain, edits.json: record 1: prompt 'Ada Marsh speaks " in error
        assert error.endswith("data.strict=false drops it\n")
    assert not (tmp_path / "j").exists()


def test_a_file_of_nothing_else_is_refused(
    words: Callable[..., list[str]], capsys: Capture
) -> None:
    assert main(["edit", *words(BAD["prompt"]), "null_space=false"]) == 2
    assert "data=plain holds no request that can be edited: 1 × '" in capsys.readouterr().err


def test_a_neighbour_is_asked_for_the_new_answer(gpt2: EditableModel) -> None:
    """And there the longer one has to fit."""
    near = "cats "
    while len(tokenise(gpt2.tokenizer, near + "cats")) < CONTEXT:
        near += "cats "
    asked = replace(REQUESTS[3], locality={"neighbourhood": Probe((near,), ("cats",))})
    assert len(target_ids(gpt2.tokenizer, near, asked.target_new)) > 1
    check_scored(gpt2, replace(asked, target_new="cats"))
    with pytest.raises(RequestError, match="and its answer take"):
        check_scored(gpt2, asked)


def test_every_cell_of_a_comparison_edits_the_same(
    words: Callable[..., list[str]], caplog: Log
) -> None:
    chosen = [*words(BAD["rephrasing"], GOOD[1], BAD["prompt"], MERGED, *GOOD[2:], *GOOD[2:])]
    settings = []
    for base in ("rome", "memit"):
        caplog.clear()
        cell = set_up(load_config([*chosen, f"base={base}", "compare.edits=4"], ComparisonConfig))
        prompts = [request.filled for request in cell.data.requests]
        assert prompts == [row["prompt"] for row in (GOOD[1], MERGED, *GOOD[2:])]
        said = [m for m in caplog.messages if "dropped" in m or "at a token that" in m]
        assert len(said) == 2
        assert said[0].startswith("plain, edits.json: 2 records dropped: ")
        assert said[1].endswith("1 of 4 requests, such as 'cat' with 's' in 'The cats are'")
        settings.append(cell.setting)
    assert settings[0] == settings[1]


def test_edit_says_once_which_subjects_are_merged_with_their_text(
    words: Callable[..., list[str]], caplog: Log
) -> None:
    chosen = [*words(*GOOD, MERGED), "null_space=false", "batch_size=1"]
    assert main(["edit", *chosen]) == 0
    (said,) = [message for message in caplog.messages if "at a token that" in message]
    assert "1 of 5 requests" in said


def test_suggest_goes_on_with_others(tmp_path: Path, capsys: Capture, caplog: Log) -> None:
    known: list[Request] = list(load_data(load_config(["data.limit=2"])).requests)
    rows = [
        {
            "prompt": r.filled,
            "subject": r.subject,
            "target_new": "x",
            "ground_truth": r.ground_truth,
        }
        for r in known
    ]
    bad = rows[0] | {"prompt": f"{rows[0]['prompt']} " * 200}
    bad["prompt"] = bad["prompt"].replace(rows[0]["subject"], "He", 199)
    (tmp_path / "facts.json").write_text(json.dumps([bad, *rows]))
    words = ["data=plain", f"data.path={tmp_path / 'facts.json'}", "suggest.samples=1"]
    assert main(["suggest", *words, f"suggest.out={tmp_path / 'out'}"]) == 0
    assert "1 record dropped: 1 × prompt" in caplog.text
    assert "2 facts: P(answer)" in capsys.readouterr().out
