"""One configuration, two hosts: EasyEdit's own functions, and ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import alphaedit_plugin
from alphaedit_plugin.cli.main import main
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.config.statistics import load_moments
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.easyedit.find_host import HostError
from alphaedit_plugin.easyedit.host import second_moment_of
from alphaedit_plugin.easyedit.host_engine import hosted_editor
from alphaedit_plugin.editor import NullSpaceEditor
from tests.host.tiny_host import CONTEXTS, TinyHostModel, skip_without_host

skip_without_host()


@pytest.fixture(autouse=True)
def _unregistered(host: ModuleType) -> Iterator[None]:
    yield
    alphaedit_plugin.unregister()


def config(tiny: TinyHostModel, base: str, null_space: bool, *more: str) -> EditorConfig:
    contexts = ",".join(f'"{c}"' for c in CONTEXTS[1:])
    layers = "[2]" if base == "rome" else "[1,2,3]"
    return load_config(
        [
            f"base={base}", "model=custom", f"model.path={tiny.folder}", f"model.layers={layers}",
            f"null_space={null_space}", f"model.moments.stats_dir={tiny.stats_dir}",
            f"model.contexts.templates=[{contexts}]", "model.target.steps=8", "model.target.lr=0.1",
            "model.moment_weight=15", "projector=absolute", "projector.l2=1",
            f"projector.cut.value={tiny.nullspace_threshold}", "batch_size=2", *more,
        ]
    )  # fmt: skip


def batches(tiny: TinyHostModel) -> list[list[Request]]:
    requests = [Request.parse(r["prompt"], r["subject"], r["target_new"]) for r in tiny.requests]
    return [requests[:2], requests[2:4]]


@pytest.mark.parametrize("null_space", [False, True])
@pytest.mark.parametrize("base", ["rome", "memit", "rect", "prune"])
def test_both_hosts_write_the_same(tiny: TinyHostModel, base: str, null_space: bool) -> None:
    chosen = config(tiny, base, null_space)
    ours, theirs = NullSpaceEditor.from_config(chosen), hosted_editor(chosen)
    for batch in batches(tiny):
        ours.apply(batch)
        theirs.apply(batch)
    ours.finalize()
    theirs.finalize()
    for layer in chosen.model.layers:
        expected, found = ours.session.accumulated(layer), theirs.session.accumulated(layer)
        assert (found - expected).norm() / expected.norm() < 1e-2
    for editor in (ours, theirs):
        editor.session.undo(len(editor.session.journal))
        assert not editor.session.requests
    fresh = ours.lm.model.state_dict()
    assert all(torch.equal(w, fresh[n]) for n, w in theirs.lm.model.state_dict().items())


@pytest.mark.parametrize("base", ["rome", "memit"])
@pytest.mark.parametrize("prompt", ['The {} is {"a": [1}}', "The {}} is"])
def test_braces_of_the_text_reach_the_host(tiny: TinyHostModel, base: str, prompt: str) -> None:
    chosen, request = config(tiny, base, True), tiny.requests[0]
    batch = [Request.parse(prompt, request["subject"] + " {b}", request["target_new"])]
    ours, theirs = NullSpaceEditor.from_config(chosen), hosted_editor(chosen)
    ours.apply(batch)
    theirs.apply(batch)
    for layer in chosen.model.layers:
        expected, found = ours.session.accumulated(layer), theirs.session.accumulated(layer)
        assert (found - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("chosen", ["native", "easyedit"])
def test_the_command_line_takes_either(
    tiny: TinyHostModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], chosen: str
) -> None:
    """What is printed is our report alone; the host's own lines go to stderr."""
    request = tiny.requests[0]
    words = [
        "edit", f"host={chosen}", "base=memit", "model=custom", f"model.path={tiny.folder}",
        "model.layers=[1,2,3]", f"model.moments.stats_dir={tiny.stats_dir}", "null_space=true",
        "model.moment_weight=15", "projector=energy", "projector.cut.value=0.9",
        f"request.prompt={request['prompt']!r}", f"request.subject={request['subject']!r}",
        f"request.target_new={request['target_new']!r}", f"save={tmp_path / 'edited'}",
    ]  # fmt: skip
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("prompt ")
    assert "null space" in out
    assert ("LAYER 1" in err) == (chosen == "easyedit")
    assert "LAYER" not in out
    assert (tmp_path / "edited" / "config.json").is_file()


def test_a_record_that_the_host_would_misread_costs_itself(
    tiny: TinyHostModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{key: r[key] for key in ("prompt", "subject", "target_new")} for r in tiny.requests]
    braces = {"prompt": "In {} the {subject} is", "subject": "cat", "target_new": "dog"}
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([rows[0], braces, *rows[1:3]]))
    words = [
        "edit", "host=easyedit", "base=memit", "model=custom", f"model.path={tiny.folder}",
        "model.layers=[1,2,3]", f"model.moments.stats_dir={tiny.stats_dir}", "null_space=false",
        "model.moment_weight=15", "model.target.steps=2", "batch_size=1", "data=plain",
        f"data.path={path}", "data.limit=3", f"save={tmp_path / 'edited'}",
    ]  # fmt: skip
    assert main(words) == 0
    assert "1 record dropped: 1 × EasyEdit cannot edit" in caplog.text
    assert (tmp_path / "edited" / "config.json").is_file()


def test_moments_we_collect_are_found_by_the_host(tiny: TinyHostModel, tmp_path: Path) -> None:
    text = tmp_path / "corpus.txt"
    text.write_text("\n".join(f"Request {r['prompt']} {r['target_new']}" for r in tiny.requests))
    chosen = config(
        tiny, "memit", False, f"model.moments.stats_dir={tmp_path / 'stats'}",
        f"model.moments.corpus={text}",
    )  # fmt: skip
    lm = load_model(chosen.model)
    collected = load_moments(lm, chosen.model)
    assert not list((tmp_path / "stats").glob("*/wikipedia_stats/*"))  # its text is another
    (folder,) = (tmp_path / "stats").glob("*/corpus-*_stats")
    dataset = folder.name.removesuffix("_stats")
    for layer, moment in collected.items():
        hparams = tiny.hparams(
            "MEMIT", stats_dir=str(tmp_path / "stats"), mom2_dataset=dataset,
            mom2_n_samples=moment.count,
        )  # fmt: skip
        module = lm.layout.down_proj.format(layer)
        theirs = second_moment_of(lm.model, lm.tokenizer, module, hparams)
        assert torch.allclose(theirs.double(), moment.mean, rtol=1e-6, atol=0)


def test_the_closed_form_asks_the_host_for_no_statistics(
    host: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's line on the pocket model, for which the host has none and would download some."""
    words = ["edit", "host=easyedit", "base=memit", "data.limit=2", "model.target.steps=3"]
    assert main(words) == 0
    assert "null space" in capsys.readouterr().out


@pytest.mark.parametrize("null_space", [False, True])
def test_offloaded_weights_are_refused_before_anything_is_run(
    tiny: TinyHostModel, tmp_path: Path, null_space: bool
) -> None:
    chosen = config(tiny, "memit", null_space, f"model.moments.stats_dir={tmp_path / 'stats'}")
    model, _ = tiny.load()
    parts = {
        f"{model.base_model_prefix}.{name}": "cpu" for name, _ in model.base_model.named_children()
    }
    blocks = tiny.weight_names()[0].partition(".1.")[0]
    chosen.model.device_map = parts | {blocks: "disk", "lm_head": "cpu"}
    with pytest.raises(HostError, match=r"is offloaded.*host=native"):
        hosted_editor(chosen)
    assert not (tmp_path / "stats").exists()
