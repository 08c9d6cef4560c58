"""`NullSpaceEditor` does what EasyEdit's ``BaseEditor`` does, and keeps its state to itself."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alphaedit_plugin import editor as editor_module
from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import (
    AlphaEditError,
    ConfigError,
    ModelError,
    NumericalError,
    RequestError,
)
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.request import NEIGHBOURHOOD
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rect import Rect
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import CONTEXTS, REQUESTS, SEARCH, assert_same_weights, weights_of

LAYERS = (1, 2)
Moments = dict[int, SecondMoment]
Make = Callable[..., NullSpaceEditor]

ARGUMENTS: dict[str, Any] = {
    "prompts": [request.filled for request in REQUESTS],
    "target_new": [request.target_new for request in REQUESTS],
    "subject": [request.subject for request in REQUESTS],
}


def methods(moments: Moments) -> dict[str, BaseMethod]:
    """Every base, plain and projected."""
    half = {k: Projector.fit(m, Cut(CutRule.rank, 64)) for k, m in moments.items()}
    plain: dict[str, BaseMethod] = {
        "rome": Rome(),
        "memit": Memit(moment_weight=1.0),
        "rect": Rect(moment_weight=1.0),
        "prune": Prune(moment_weight=1.0, alpha=1.2),
    }
    projected = {f"{name}+": AlphaEdit(base, half, ridge=1.0) for name, base in plain.items()}
    return plain | projected


NAMES = [f"{base}{plus}" for base in ("rome", "memit", "rect", "prune") for plus in ("", "+")]


@pytest.fixture
def make(gpt2: EditableModel, gpt2_moments: Moments) -> Make:
    def build(name: str = "memit", batch_size: int = 2) -> NullSpaceEditor:
        recipe = Recipe(methods(gpt2_moments)[name], LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH)
        return NullSpaceEditor(gpt2, recipe, batch_size)

    return build


# ---------------------------------------------------------------------------------------------
# The triple


def test_arguments_are_the_hosts_in_its_order() -> None:
    expected = [
        "prompts", "target_new", "ground_truth", "target_neg", "rephrase_prompts",
        "locality_inputs", "portability_inputs", "sequential_edit", "verbose",
    ]  # fmt: skip
    for method in (NullSpaceEditor.edit, NullSpaceEditor.batch_edit):
        assert list(inspect.signature(method).parameters)[1:10] == expected
        assert "subject" in inspect.signature(method).parameters


def test_triple_of_edit(make: Make) -> None:
    editor = make()
    metrics, model, weights = editor.edit(
        **ARGUMENTS,
        ground_truth=["French", "violin", "Paris", None],
        rephrase_prompts=["Ada Marsh speaks", None, "Norland has the capital", None],
        locality_inputs={
            "neighbourhood": {
                "prompt": [["The cats and the", "People speak"], None, "It is", "He said"],
                "ground_truth": [["cats", "French"], None, "known", "that"],
            }
        },
        portability_inputs={
            "hop": {"prompt": ["She"] * 4, "ground_truth": ["plays tennis"] * 4},
        },
    )
    assert model is editor.model
    assert set(weights) == {editor.lm.weight_name(layer) for layer in LAYERS}
    assert [one["case_id"] for one in metrics] == [0, 1, 2, 3]
    for one in metrics:
        assert set(one) == {
            "case_id", "requested_rewrite", "pre", "post", "time", "target_search", "unlearnt",
        }  # fmt: skip
        assert set(one["target_search"]) == {"loss", "probability"}
        assert one["unlearnt"] == "search"  # four steps on a random model
        assert one["time"] > 0
        assert set(one["pre"]["portability"]) == set(one["post"]["portability"]) == {"hop_acc"}
    first, second, _, _ = metrics
    assert set(first["pre"]["locality"]) == {"neighbourhood_output"}
    assert set(first["post"]["locality"]) == {"neighbourhood_output", "neighbourhood_acc"}
    assert len(first["post"]["locality"]["neighbourhood_acc"]) == 2
    assert "rephrase_acc" in first["post"]
    assert "rephrase_acc" not in second["post"]
    assert second["post"]["locality"] == {}
    assert first["requested_rewrite"]["ground_truth"] == "French"
    assert first["requested_rewrite"]["prompt"] == REQUESTS[0].filled
    assert first["requested_rewrite"]["rephrase_prompt"] == "Ada Marsh speaks"


def test_one_request_as_plain_text(make: Make) -> None:
    metrics, _, _ = make().edit(
        "The capital of Norland is", "Rome", subject="Norland", rephrase_prompts="Norland has"
    )
    assert len(metrics) == 1
    assert len(metrics[0]["post"]["rephrase_acc"]) == 1


@pytest.mark.parametrize("blank", [" ", "\u00a0\t"])
def test_blanks_after_a_text_change_no_edit_and_no_figure(make: Make, blank: str) -> None:
    def asked(end: str) -> dict[str, Any]:
        probe = {"near": {"prompt": ["Rome is in" + end] * 4, "ground_truth": ["Paris" + end] * 4}}
        return {
            "prompts": [prompt + end for prompt in ARGUMENTS["prompts"]],
            "target_new": [answer + end for answer in ARGUMENTS["target_new"]],
            "subject": ARGUMENTS["subject"],
            "rephrase_prompts": ["Ada Marsh speaks" + end, None, None, None],
            "locality_inputs": probe,
            "portability_inputs": probe,
        }

    editor = make("memit+")
    plain, _, _ = editor.edit(**asked(""), sequential_edit=True)
    expected = weights_of(editor.lm)
    editor.session.reset()
    metrics, _, _ = editor.edit(**asked(blank), sequential_edit=True)
    assert_same_weights(editor.lm, expected)
    assert [one["post"] for one in metrics] == [one["post"] for one in plain]


# ---------------------------------------------------------------------------------------------
# What is kept, and what is put back


@pytest.mark.parametrize("name", NAMES)
def test_non_sequential_edits_leave_every_weight(make: Make, name: str) -> None:
    editor = make(name)
    before = weights_of(editor.lm)
    for call in (editor.edit, editor.batch_edit):
        _, model, weights = call(**ARGUMENTS)
        assert_same_weights(editor.lm, before)
        assert editor.session.journal == []
        for parameter, kept in weights.items():
            assert torch.equal(kept, before[parameter])
        assert model is editor.lm.model


@pytest.mark.parametrize("name", NAMES)
def test_sequential_edits_stay(make: Make, name: str) -> None:
    editor = make(name)
    before = weights_of(editor.lm)
    editor.batch_edit(**ARGUMENTS, sequential_edit=True)
    assert len(editor.session.journal) == 2
    changed = {key for key, p in editor.model.named_parameters() if not torch.equal(p, before[key])}
    assert changed == {editor.lm.weight_name(layer) for layer in LAYERS}
    editor.session.reset()
    assert_same_weights(editor.lm, before)


@pytest.mark.parametrize("sequential", [False, True])
def test_that_edits_are_taken_back_is_said_once(
    make: Make, caplog: pytest.LogCaptureFixture, sequential: bool
) -> None:
    editor = make()
    before = weights_of(editor.lm)
    for call in (editor.edit, editor.batch_edit):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            call(**ARGUMENTS, sequential_edit=sequential)
        said = caplog.text.count("undone once it is evaluated, as in EasyEdit: sequential_edit")
        assert said == (0 if sequential else 1)
        if not sequential:
            assert_same_weights(editor.lm, before)


def test_weights_copy_restores_the_last_edit(make: Make) -> None:
    editor = make()
    editor.edit(*(ARGUMENTS[k][:1] for k in ("prompts", "target_new")),
                subject=ARGUMENTS["subject"][:1], sequential_edit=True)  # fmt: skip
    after_first = weights_of(editor.lm)
    _, model, weights = editor.edit(
        *(ARGUMENTS[k][1:2] for k in ("prompts", "target_new")),
        subject=ARGUMENTS["subject"][1:2],
        sequential_edit=True,
    )
    with torch.no_grad():
        for key, value in weights.items():
            parameter = model.get_parameter(key)
            assert not torch.equal(parameter, value)
            parameter.copy_(value)
    assert_same_weights(editor.lm, after_first)


def test_sequential_edits_are_those_of_one_call_or_several(make: Make) -> None:
    editor = make("memit+")
    editor.edit(**ARGUMENTS, sequential_edit=True)
    together = weights_of(editor.lm)
    editor.session.reset()
    for i in range(len(REQUESTS)):
        editor.edit(
            ARGUMENTS["prompts"][i],
            ARGUMENTS["target_new"][i],
            subject=ARGUMENTS["subject"][i],
            sequential_edit=True,
        )
    assert_same_weights(editor.lm, together)


def test_pre_of_edit_is_the_model_before_all_edits(make: Make) -> None:
    """As in the host: ``edit`` measures all first, ``batch_edit`` right before each batch."""
    alone = [one["pre"] for one in make().edit(**ARGUMENTS)[0]]
    editor = make()
    assert [one["pre"] for one in editor.edit(**ARGUMENTS, sequential_edit=True)[0]] == alone
    editor.session.reset()
    asked: list[int] = []
    original = editor_module.edit_quality
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            editor_module,
            "edit_quality",
            lambda lm, requests: (
                asked.append(len(editor.session.journal)) or original(lm, requests)
            ),
        )
        editor.batch_edit(**ARGUMENTS, sequential_edit=True)
    assert asked == [0, 1, 1, 2]


@pytest.mark.parametrize("sequential", [False, True])
def test_failure_in_the_middle_of_a_batch(make: Make, sequential: bool) -> None:
    editor = make()
    before = weights_of(editor.lm)
    original = Memit.solve

    def fail(self: Memit, problem: Any) -> Any:
        if problem.layer == LAYERS[-1]:
            raise NumericalError("broken")
        return original(self, problem)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Memit, "solve", fail)
        with pytest.raises(NumericalError, match="broken"):
            editor.batch_edit(**ARGUMENTS, sequential_edit=sequential)
    assert_same_weights(editor.lm, before)
    assert editor.session.journal == []


def test_failure_after_the_edit_takes_a_non_sequential_one_back(make: Make) -> None:
    editor = make()
    before = weights_of(editor.lm)
    original, calls = editor_module.edit_quality, []

    def fail(lm: Any, requests: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(lm, requests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editor_module, "edit_quality", fail)
        with pytest.raises(KeyboardInterrupt):
            editor.edit(**ARGUMENTS)
    assert_same_weights(editor.lm, before)
    assert editor.session.journal == []


# ---------------------------------------------------------------------------------------------
# PRUNE


def test_prune_is_restrained_when_the_run_is_finalised(make: Make) -> None:
    editor = make("prune")
    pristine = {layer: editor.lm.weight(layer).clone() for layer in LAYERS}
    editor.batch_edit(**ARGUMENTS, sequential_edit=True)
    loose = {layer: editor.session.accumulated(layer).clone() for layer in LAYERS}
    entry = editor.finalize()
    assert entry is not None
    assert entry.requests == ()
    for layer in LAYERS:
        limit = torch.linalg.matrix_norm(pristine[layer].double(), ord=2)
        before = torch.linalg.svdvals(loose[layer].double())
        after = torch.linalg.svdvals(editor.session.accumulated(layer).double())
        assert (after <= before + 1e-4).all()
        curve = torch.log(before / limit) / torch.log(torch.tensor(1.2)) + limit
        expected = torch.where(before > limit, torch.minimum(before, curve), before)
        torch.testing.assert_close(after, expected.sort(descending=True).values, atol=1e-4, rtol=0)
        # Against the pristine weight, not on top of the edited one.
        torch.testing.assert_close(
            editor.lm.weight(layer), pristine[layer] + editor.session.accumulated(layer)
        )


def test_prune_restrains_each_non_sequential_edit(make: Make) -> None:
    editor, ends = make("prune"), []
    original = Prune.finalize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prune, "finalize", lambda *given: ends.append(original(*given)) or ends[-1])
        editor.edit(**ARGUMENTS)
    assert len(ends) == len(REQUESTS) * len(LAYERS)
    assert None not in ends


@pytest.mark.parametrize("name", ["rome", "memit", "rect", "memit+"])
def test_the_others_have_nothing_to_finalise(make: Make, name: str) -> None:
    editor = make(name)
    editor.batch_edit(**ARGUMENTS, sequential_edit=True)
    before = weights_of(editor.lm)
    assert editor.finalize() is None
    assert_same_weights(editor.lm, before)


# ---------------------------------------------------------------------------------------------
# One editor, many editors


def test_two_editors_on_two_models(
    templates: dict[str, EditableModel], all_moments: dict[str, Moments]
) -> None:
    """Interleaved editors of two families end where each ends alone."""

    def build(family: str) -> NullSpaceEditor:
        template = templates[family]
        lm = EditableModel(copy.deepcopy(template.model), template.tokenizer, template.layout)
        method = methods(all_moments[family])["memit+"]
        return NullSpaceEditor(
            lm, Recipe(method, LAYERS, CONTEXTS, all_moments[family], targets=SEARCH)
        )

    alone = {}
    for family in ("gpt2", "llama"):
        editor = build(family)
        for request in REQUESTS:
            editor.edit_requests([request], sequential_edit=True)
        alone[family] = weights_of(editor.lm)
    pair = {family: build(family) for family in ("gpt2", "llama")}
    for request in REQUESTS:
        for editor in pair.values():
            editor.edit_requests([request], sequential_edit=True)
    for family, editor in pair.items():
        assert_same_weights(editor.lm, alone[family])
        assert [len(entry.requests) for entry in editor.session.journal] == [1] * len(REQUESTS)


def test_batches_are_of_the_given_size(make: Make) -> None:
    editor = make("memit", batch_size=3)
    editor.batch_edit(**ARGUMENTS, sequential_edit=True)
    assert [len(entry.requests) for entry in editor.session.journal] == [3, 1]
    editor.session.reset()
    editor.edit(**ARGUMENTS, sequential_edit=True)
    assert [len(entry.requests) for entry in editor.session.journal] == [1, 1, 1, 1]


def test_metrics_are_logged_only_when_verbose(
    make: Make, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    editor = make()
    with caplog.at_level(logging.INFO, logger="alphaedit_plugin"):
        editor.edit_requests(REQUESTS[:1], verbose=False)
        assert "rewrite_acc" not in caplog.text
        editor.edit_requests(REQUESTS[:1], verbose=True)
        assert "rewrite_acc" in caplog.text
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------------------------------------
# Refused before any weight changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_new": ["Spanish"]}, "4 prompts but 1 target_new"),
        ({"subject": ["Ada Marsh"]}, "4 prompts but 1 subject"),
        ({"ground_truth": ["French"]}, "4 prompts but 1 ground_truth"),
        ({"rephrase_prompts": ["x"]}, "4 prompts but 1 rephrase_prompts"),
        ({"subject": None}, "subject"),
        ({"target_new": ["Spanish", "tennis", "Rome", " "]}, "request 3: target_new"),
        ({"subject": ["Ada Marsh", "Nobody", "Norland", "Clara Weiss"]}, "request 1: subject"),
        ({"prompts": []}, "0 prompts"),
        (
            {"locality_inputs": {"a": {"prompt": ["x"], "ground_truth": ["y"]}}},
            "1 entries for 4 prompts",
        ),
        ({"locality_inputs": {"a": {"prompt": ["x"] * 4}}}, "locality_inputs"),
        (
            {"portability_inputs": {"a": {"prompt": ["x"] * 4, "ground_truth": [["y", "z"]] * 4}}},
            "one answer per prompt",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_change_nothing(make: Make, change: dict[str, Any], message: str) -> None:
    editor = make()
    before = weights_of(editor.lm)
    for call in (editor.edit, editor.batch_edit):
        with pytest.raises(RequestError, match=message):
            call(**ARGUMENTS | change, sequential_edit=True)
    assert_same_weights(editor.lm, before)
    assert editor.session.journal == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_new": None}, "target_new is None"),
        ({"subject": 5}, "subject is 5"),
        ({"rephrase_prompts": [5, None, None, None]}, "request 0: rephrase is 5"),
        ({"target_neg": ["x"]}, "4 prompts but 1 target_neg"),
        ({"locality_inputs": ["near"]}, "locality_inputs is"),
        ({"rephrase_prompts": [None, None, None, "cats " * 70]}, "request 3: .*context"),
        (
            {
                "portability_inputs": {
                    "a": {"prompt": ["x"] * 3 + ["cats " * 70], "ground_truth": ["y"] * 4}
                }
            },
            "request 3: .*context",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_would_fail_halfway_is_refused_before_the_model_runs(
    make: Make, change: dict[str, Any], message: str
) -> None:
    editor = make()

    def never(*_: Any) -> None:
        raise AssertionError("the model ran")

    editor.model.register_forward_pre_hook(never)
    for call in (editor.edit, editor.batch_edit):
        with pytest.raises(RequestError, match=message):
            call(**ARGUMENTS | change, sequential_edit=True)


def test_two_editors_on_one_model_do_not_overwrite_each_other(make: Make) -> None:
    first, second = make(), make("memit+")
    first.edit_requests(REQUESTS[:2], sequential_edit=True)
    edited = weights_of(first.lm)
    for act in (second.apply, second.edit_requests):
        with pytest.raises(AlphaEditError, match=r"start a new editor.*session\.reset"):
            act(REQUESTS[2:])
    assert_same_weights(first.lm, edited)
    first.session.reset()
    second.apply(REQUESTS[2:])


def test_an_editor_works_inside_and_outside_of_inference_mode(make: Make) -> None:
    editor = make("prune+")
    before = weights_of(editor.lm)
    editor.edit(**ARGUMENTS, sequential_edit=True)
    edited = weights_of(editor.lm)
    editor.session.reset()
    with torch.inference_mode():
        inside = make("prune+")
        inside.edit(**ARGUMENTS, sequential_edit=True)
    assert_same_weights(inside.lm, edited)
    inside.finalize()
    inside.session.reset()
    assert_same_weights(inside.lm, before)


def test_nothing_to_edit(make: Make) -> None:
    with pytest.raises(RequestError, match="no request"):
        make().edit([], [], subject=[])


def test_a_prompt_longer_than_the_context(make: Make) -> None:
    editor = make()
    with pytest.raises(RequestError, match=r"request 1: .*context"):
        editor.edit(
            ["The {} is", "The cats " * 60 + "{} is"], ["a", "b"], subject=["x", "y"],
            sequential_edit=True,
        )  # fmt: skip
    assert editor.session.journal == []


def test_bad_layers_and_batch_sizes(make: Make) -> None:
    good = make()
    for size in (0, 1.5, "2", None):
        with pytest.raises(ConfigError, match=f"batch_size is {size}: it must be a whole number"):
            NullSpaceEditor(good.lm, good.recipe, size)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"batch_size is {size}"):
            good.edit_requests(REQUESTS, batch_size=size)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="out of range"):
        NullSpaceEditor(good.lm, Recipe(good.recipe.method, (9,), CONTEXTS))


# ---------------------------------------------------------------------------------------------
# On a model that knows something


@pytest.fixture(scope="module")
def pocket() -> NullSpaceEditor:
    """Few tokens make a poor second moment, quickly: enough to see that edits arrive."""
    return NullSpaceEditor.from_pretrained(
        "pocket", null_space=True, overrides=["base=memit", "model.moments.tokens=3000"]
    )


def test_from_pretrained_takes_the_models_settings(pocket: NullSpaceEditor) -> None:
    config = load_config(["base=memit"])
    assert isinstance(pocket.recipe.method, AlphaEdit)
    assert pocket.recipe.layers == tuple(config.model.layers)
    assert pocket.recipe.targets == config.model.target
    assert pocket.batch_size == config.batch_size


@pytest.mark.parametrize("sequential", [False, True])
def test_an_edit_is_learnt_and_neighbours_stay(pocket: NullSpaceEditor, sequential: bool) -> None:
    before = weights_of(pocket.lm)
    requests = load_data(load_config()).requests[:10]
    metrics, _, _ = pocket.edit_requests(requests, sequential, verbose=False, batch_size=5)
    mean = {
        stage: sum(one[stage]["rewrite_acc"][0] for one in metrics) / len(metrics)
        for stage in ("pre", "post")
    }
    assert mean["pre"] <= 0.1
    assert mean["post"] >= 0.9
    kept = [v for one in metrics for v in one["post"]["locality"][f"{NEIGHBOURHOOD}_acc"]]
    assert sum(kept) / len(kept) >= 0.9
    if not sequential:
        assert_same_weights(pocket.lm, before)
    for layer in pocket.recipe.layers:
        delta = Delta(pocket.session.accumulated(layer))
        method = pocket.recipe.method
        assert isinstance(method, AlphaEdit)
        assert method.projectors[layer].leakage(delta) < 1e-6
    pocket.session.reset()
    assert_same_weights(pocket.lm, before)


@pytest.mark.parametrize("name", ["a model, mine", """it's "${mine}" \\ or {}"""])
def test_from_pretrained_by_path(tmp_path: Path, gpt2: EditableModel, name: str) -> None:
    gpt2.model.save_pretrained(tmp_path / name)
    gpt2.tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "text.txt").write_text("The cats know.\nPeople speak French.\n" * 5)
    overrides = [
        "base=rome",
        "model.layers=[1]",
        f"model.moments.corpus={tmp_path / 'text.txt'}",
        "model.contexts.templates=['He said. {}']",
    ]
    editor = NullSpaceEditor.from_pretrained(tmp_path / name, null_space=False, overrides=overrides)
    assert isinstance(editor.recipe.method, Rome)
    assert editor.recipe.layers == (1,)
    assert editor.recipe.contexts.flat == ("{}", "He said. {}")
    for name, parameter in editor.model.named_parameters():
        assert torch.equal(parameter, gpt2.model.get_parameter(name))


def test_from_pretrained_takes_a_pair_as_it_is(tmp_path: Path, gpt2: EditableModel) -> None:
    (tmp_path / "text.txt").write_text("The cats know.\nPeople speak French.\n" * 5)
    overrides = ["model.layers=[1]", f"corpus={tmp_path / 'text.txt'}", "base=memit"]
    templates = "model.contexts.templates=['He said. {}']"
    pair = (gpt2.model, gpt2.tokenizer)
    editor = NullSpaceEditor.from_pretrained(pair, overrides=[*overrides, templates])
    assert (editor.model, editor.tok) == pair
    assert editor.recipe.layers == (1,)
    with pytest.raises(ConfigError, match="a tuple of 1: give a model and a tokenizer"):
        NullSpaceEditor.from_pretrained((gpt2.model,), overrides=overrides)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"which layers\? add .*model\.layers=\[3,4\]"):
        NullSpaceEditor.from_pretrained(pair)


def test_from_pretrained_needs_layers_for_an_unknown_model() -> None:
    with pytest.raises(ConfigError, match=r"model\.layers=\[3,4\]"):
        NullSpaceEditor.from_pretrained("somewhere/else")
