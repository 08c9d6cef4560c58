from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import AlphaEditError, ModelError, NumericalError, RequestError
from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.editing.encoding import encode
from alphaedit_plugin.editing.engine import finalize
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.targets import Targets, optimise_targets
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod, LayerProblem
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.activations import Part, Site, average, read
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates, locate
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import (
    CONTEXTS,
    DEPTH,
    REQUESTS,
    SEARCH,
    assert_same_weights,
    edit,
    hook_count,
    relative,
    targets_of,
    weights_of,
)

LAYERS = (0, 1, 2)
Moments = dict[int, SecondMoment]


def recipe_of(method: BaseMethod, moments: Moments, layers: tuple[int, ...] = LAYERS) -> Recipe:
    return Recipe(method, layers, CONTEXTS, moments, targets=SEARCH)


def keys_and_values(lm: EditableModel, layer: int) -> tuple[Tensor, Tensor]:
    """The averaged keys of `REQUESTS` at ``layer``, and the bare prompts' value at the last one."""
    sentences = [
        locate(lm.tokenizer, c.replace("{}", r.prompt), r.subject, FactToken.subject_last)
        for r in REQUESTS
        for c in CONTEXTS.flat
    ]
    key, block = Site(layer, Part.KEY), Site(LAYERS[-1], Part.BLOCK)
    found = read(lm, [key, block], sentences)
    return average(found[key], CONTEXTS.weights), found[block][:, :: len(CONTEXTS.flat)]


def test_memit_is_its_layers_written_one_after_another(lm: EditableModel, moments: Moments) -> None:
    """The published algorithm, with the dense formula, on a twin of the model."""
    twin = EditableModel(copy.deepcopy(lm.model), lm.tokenizer, lm.layout)
    edit(EditSession(lm, LAYERS), recipe_of(Memit(20.0), moments), REQUESTS)
    target = targets_of(
        twin, REQUESTS, CONTEXTS, Site(LAYERS[-1], Part.BLOCK), FactToken.subject_last, SEARCH
    ).values
    for place, layer in enumerate(LAYERS):
        keys, current = keys_and_values(twin, layer)
        residual = ((target - current) / (len(LAYERS) - place)).double()
        system = 20.0 * moments[layer].mean + keys.double() @ keys.double().T
        delta = torch.linalg.solve(system, keys.double() @ residual.T).T
        twin.weight(layer).add_(delta.float())
        assert relative(lm.weight(layer), twin.weight(layer)) < 1e-5


@pytest.mark.parametrize("name", ["rome", "memit"])
def test_how_far_the_searches_came_is_kept_shown_and_warned_of(
    gpt2: EditableModel, gpt2_moments: Moments, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    method = {"rome": Rome(), "memit": Memit(20.0)}[name]
    session, recipe = EditSession(gpt2, LAYERS), recipe_of(method, gpt2_moments)

    def near(*args: Any) -> Targets:
        found = optimise_targets(*args)
        return replace(found, probability=torch.full_like(found.probability, 0.9))

    with caplog.at_level(logging.INFO):
        entry = edit(session, recipe, REQUESTS[:2])
        assert "target search for The mother tongue of Ada Marsh is → Spanish: loss" in caplog.text
        assert "found no value that gives the answer for 2 of 2 requests" in caplog.text
        caplog.clear()
        entry_near = edit(session, recipe, REQUESTS[2:], search=near)
    assert "found no value" not in caplog.text
    assert all(0 < search.probability < 0.1 and search.missed for search in entry.searches)
    assert all(search.probability == pytest.approx(0.9) for search in entry_near.searches)
    assert not any(search.missed for search in entry_near.searches)
    if name == "memit":
        session.reset()
        site = Site(LAYERS[-1], Part.BLOCK)
        expected = targets_of(gpt2, REQUESTS[:2], CONTEXTS, site, FactToken.subject_last, SEARCH)
        assert [s.loss for s in entry.searches] == pytest.approx(expected.loss.tolist())


def test_alphaedit_is_the_published_form_over_several_batches(
    lm: EditableModel, projectors: dict[int, Projector]
) -> None:
    """``R KᵀP (KpKpᵀP + KKᵀP + L2·I)⁻¹``, with past keys taken after their batch was written."""
    twin = EditableModel(copy.deepcopy(lm.model), lm.tokenizer, lm.layout)
    recipe = recipe_of(AlphaEdit(Memit(), projectors, ridge=2.0), {})
    session = EditSession(lm, LAYERS)
    edit(session, recipe, REQUESTS)
    edit(session, recipe, REQUESTS)
    site = Site(LAYERS[-1], Part.BLOCK)
    past = {layer: torch.zeros(lm.weight(layer).shape[1], 0).double() for layer in LAYERS}
    for _ in range(2):
        target = targets_of(twin, REQUESTS, CONTEXTS, site, FactToken.subject_last, SEARCH).values
        for place, layer in enumerate(LAYERS):
            keys, current = (x.double() for x in keys_and_values(twin, layer))
            residual = (target - current) / (len(LAYERS) - place)
            identity = torch.eye(len(keys), dtype=torch.float64)
            p = projectors[layer].apply(identity)
            system = (past[layer] @ past[layer].T + keys @ keys.T) @ p + 2.0 * identity
            twin.weight(layer).add_((residual @ keys.T @ p @ torch.linalg.inv(system)).float())
        for layer in LAYERS:
            past[layer] = torch.cat([past[layer], keys_and_values(twin, layer)[0].double()], dim=1)
    for layer in LAYERS:
        change = twin.weight(layer) - session.pristine(layer)
        assert relative(session.accumulated(layer), change) < 1e-3


def test_a_method_sees_the_model_as_it_is_now(gpt2: EditableModel, gpt2_moments: Moments) -> None:
    seen: list[Tensor] = []

    class Watches(Memit):
        def shape(self, delta: Delta, problem: LayerProblem) -> Delta:
            seen.append(problem.weight.clone())
            return delta

    session = EditSession(gpt2, [1])
    recipe = recipe_of(Watches(20.0), gpt2_moments, (1,))
    start = gpt2.weight(1).clone()
    edit(session, recipe, REQUESTS[:2])
    between = gpt2.weight(1).clone()
    edit(session, recipe, REQUESTS[2:])
    assert torch.equal(seen[0], start)
    assert torch.equal(seen[1], between)
    assert not torch.equal(start, between)


def test_rome_writes_one_request_after_another(lm: EditableModel, moments: Moments) -> None:
    twin = EditableModel(copy.deepcopy(lm.model), lm.tokenizer, lm.layout)
    recipe = recipe_of(Rome(), moments, (1,))
    edit(EditSession(lm, [1]), recipe, REQUESTS)
    one_by_one = EditSession(twin, [1])
    for request in REQUESTS:
        edit(one_by_one, recipe, [request])
    assert relative(lm.weight(1), twin.weight(1)) < 1e-5


def test_rome_reaches_its_target_exactly(lm: EditableModel, moments: Moments) -> None:
    site = Site(1, Part.VALUE)
    request = REQUESTS[0]
    wanted = targets_of(lm, [request], CONTEXTS, site, FactToken.subject_last, SEARCH).values
    edit(EditSession(lm, [1]), recipe_of(Rome(), moments, (1,)), [request])
    bare = locate(lm.tokenizer, request.prompt, request.subject, FactToken.subject_last)
    assert relative(read(lm, [site], [bare])[site], wanted) < 1e-4


def test_the_entry_says_what_was_done(
    lm: EditableModel, moments: Moments, projectors: dict[int, Projector]
) -> None:
    session = EditSession(lm, LAYERS)
    entry = edit(session, recipe_of(AlphaEdit(Memit(), projectors), {}), REQUESTS)
    assert entry.requests == tuple(REQUESTS)
    assert [write.layer for write in entry.writes] == list(LAYERS)
    for layer in LAYERS:  # past keys are those of the model as it is after the write
        now, _ = keys_and_values(lm, layer)
        assert relative(entry.past_keys[layer], now) < 1e-5
    session.reset()
    assert relative(keys_and_values(lm, 1)[0], entry.past_keys[1]) > 1e-3


def test_the_history_is_the_keys_that_the_layers_were_written_with(
    lm: EditableModel, projectors: dict[int, Projector]
) -> None:
    """A layer's own write and later ones do not change its keys: no pass reads them again."""
    problems: list[LayerProblem] = []

    class Watches(Memit):
        def shape(self, delta: Delta, problem: LayerProblem) -> Delta:
            problems.append(problem)
            return delta

    session = EditSession(lm, LAYERS)
    recipe = recipe_of(AlphaEdit(Watches(), projectors), {})
    past = edit(session, recipe, REQUESTS).past_keys
    for problem in problems:
        assert past[problem.layer] is problem.keys
        assert relative(keys_and_values(lm, problem.layer)[0], problem.keys) < 1e-6


class OneByOne(Memit):
    """Writes one request and layer after another, and wants the history."""

    one_by_one = True
    needs_history = True


def test_a_batch_of_several_stages_reads_its_keys_again(
    gpt2: EditableModel, gpt2_moments: Moments
) -> None:
    """A later request's write below a layer changes that layer's keys."""
    session = EditSession(gpt2, LAYERS)
    past = edit(session, recipe_of(OneByOne(20.0), gpt2_moments), REQUESTS).past_keys
    for layer in LAYERS:
        assert relative(past[layer], keys_and_values(gpt2, layer)[0]) < 1e-6


def test_without_a_need_for_history_none_is_kept(
    gpt2: EditableModel, gpt2_moments: Moments
) -> None:
    session = EditSession(gpt2, LAYERS)
    assert not edit(session, recipe_of(Memit(), gpt2_moments), REQUESTS).past_keys
    sequential = recipe_of(Memit(sequential_cache=True), gpt2_moments)
    assert set(edit(session, sequential, REQUESTS).past_keys) == set(LAYERS)


class Raises(Memit):
    """Fails on the second layer."""

    def shape(self, delta: Delta, problem: LayerProblem) -> Delta:
        if problem.layer == LAYERS[1]:
            raise ZeroDivisionError
        return delta


class NotANumber(Memit):
    """Finds no number on the last layer."""

    def shape(self, delta: Delta, problem: LayerProblem) -> Delta:
        bad = delta.left if problem.layer < LAYERS[-1] else delta.left * torch.nan
        return Delta(bad, delta.right)


class FailsAtTheEnd(Memit):
    """Fails when the run is finalised, on the second layer."""

    def finalize(self, layer: int, accumulated: Tensor, pristine: Tensor) -> Delta | None:
        if layer == LAYERS[1]:
            raise ZeroDivisionError
        return Delta(2 * accumulated)


@pytest.mark.parametrize(("times", "said"), [(9.0, False), (2e4, True)])
def test_a_delta_that_dwarfs_its_weight_is_said(
    gpt2: EditableModel, times: float, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Large(Rome):
        def solve(self, problem: LayerProblem) -> Delta:
            return Delta(times * problem.weight.clone())

    recipe = recipe_of(Large(use_moment=False), {}, layers=(1,))
    edit(EditSession(gpt2, (1,)), recipe, REQUESTS[:1])
    assert ("layer 1: the delta is 2e+04 times as large as the weight" in caplog.text) is said


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("method", "error"),
    [(Raises(20.0), ZeroDivisionError), (NotANumber(20.0), NumericalError)],
    ids=["raises", "nan"],
)
def test_a_method_that_fails_in_the_middle_leaves_no_trace(
    lm: EditableModel, moments: Moments, dtype: torch.dtype, method: Memit, error: type[Exception]
) -> None:
    lm.model.to(dtype)
    session = EditSession(lm, LAYERS)
    edit(session, recipe_of(Memit(20.0), moments), REQUESTS[:2])
    before = weights_of(lm)
    with pytest.raises(error):
        edit(session, recipe_of(method, moments), REQUESTS[2:])
    assert_same_weights(lm, before)
    assert len(session.journal) == 1
    assert hook_count(lm.model) == 0


def counted(lm: EditableModel, act: Callable[[int], None]) -> Any:
    """Call ``act`` with the number of each forward pass of the whole model."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        act(calls)

    return lm.model.register_forward_pre_hook(count)


@pytest.mark.parametrize("method", ["rome", "alphaedit"])
def test_a_failure_at_any_forward_pass_leaves_no_trace(
    lm: EditableModel, moments: Moments, projectors: dict[int, Projector], method: str
) -> None:
    """As when a device fails: while targets are searched, keys read, or history taken."""
    chosen = Rome() if method == "rome" else AlphaEdit(Memit(), projectors)
    recipe = recipe_of(chosen, moments)
    session = EditSession(lm, LAYERS)
    before = weights_of(lm)
    passes: list[int] = []
    handle = counted(lm, passes.append)
    edit(session, recipe, REQUESTS[:2])
    handle.remove()
    edited = weights_of(lm)
    session.reset()

    def fail_at(limit: int) -> Callable[[int], None]:
        def act(call: int) -> None:
            if call == limit:
                raise RuntimeError("broken")

        return act

    for limit in {1, 2, len(passes) // 2, len(passes) - 1, len(passes)}:
        handle = counted(lm, fail_at(limit))
        with pytest.raises(RuntimeError, match="broken"):
            edit(session, recipe, REQUESTS[:2])
        handle.remove()
        assert_same_weights(lm, before)
        assert session.journal == []
        assert hook_count(lm.model) == 0
    edit(session, recipe, REQUESTS[:2])
    assert_same_weights(lm, edited)


def test_a_failure_while_finalising_leaves_no_trace(
    gpt2: EditableModel, gpt2_moments: Moments
) -> None:
    recipe = recipe_of(FailsAtTheEnd(20.0), gpt2_moments)
    session = EditSession(gpt2, LAYERS)
    edit(session, recipe, REQUESTS)
    before = weights_of(gpt2)
    with pytest.raises(ZeroDivisionError):
        finalize(session, recipe)
    assert_same_weights(gpt2, before)
    assert len(session.journal) == 1


def test_finalising_nothing_adds_no_entry(gpt2: EditableModel, gpt2_moments: Moments) -> None:
    recipe = recipe_of(Memit(), gpt2_moments)
    session = EditSession(gpt2, LAYERS)
    edit(session, recipe, REQUESTS)
    before = weights_of(gpt2)
    assert finalize(session, recipe) is None
    assert_same_weights(gpt2, before)
    assert len(session.journal) == 1


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "no request"),
        ([Request("violin " * 70 + "{} is", "Ada Marsh", "Rome")], "request 0: .*context is 64"),
        ([REQUESTS[0], "Ada speaks"], "request 1: 'Ada speaks' is not a Request"),
        ("Ada", "request 0: 'A' is not a Request"),
        (REQUESTS[0], r"requests is Request\(.*give a list"),
    ],
)
def test_what_cannot_be_edited_is_refused_before_anything_runs(
    gpt2: EditableModel, gpt2_moments: Moments, requests: Any, message: str
) -> None:
    def never(call: int) -> None:
        raise AssertionError("the model ran")

    counted(gpt2, never)
    session = EditSession(gpt2, LAYERS)
    with pytest.raises(RequestError, match=message):
        edit(session, recipe_of(Memit(), gpt2_moments), requests)


def test_the_longest_prompt_that_fits_is_edited(gpt2: EditableModel, gpt2_moments: Moments) -> None:
    recipe = Recipe(Memit(), (1,), ContextTemplates.of([]), gpt2_moments, targets=SEARCH)
    for count in range(40, 80):
        request = Request("is " * count + "{} is", "Norland", "Rome")
        try:
            encode(gpt2, recipe, [request])
        except RequestError:
            break
        fits = request
    edit(EditSession(gpt2, [1]), recipe, [fits])
    # The last token of the target is predicted, never read.
    assert len(gpt2.tokenizer(fits.filled + " Rome")["input_ids"]) == 64 + 1


def test_a_model_in_training_is_edited_as_one_in_evaluation(
    lm: EditableModel, moments: Moments
) -> None:
    session = EditSession(lm, LAYERS)
    recipe = recipe_of(Memit(20.0), moments)
    edit(session, recipe, REQUESTS)
    edited = weights_of(lm)
    session.reset()
    lm.model.train()
    edit(session, recipe, REQUESTS)
    assert_same_weights(lm, edited)
    assert lm.model.training


@pytest.mark.parametrize("method", [Rome(), Memit()], ids=["rome", "memit"])
def test_the_last_block_takes_only_what_can_reach_the_answer(
    gpt2: EditableModel, gpt2_moments: Moments, method: BaseMethod
) -> None:
    last = recipe_of(method, gpt2_moments, (DEPTH - 1,))
    at_the_end = Request("People say that this is {}", "Ada Marsh", "Rome")
    encode(gpt2, last, [at_the_end])
    encode(gpt2, replace(last, fact_token=FactToken.last), REQUESTS)
    encode(gpt2, replace(last, layers=(DEPTH - 2,)), REQUESTS)
    with pytest.raises(RequestError, match="request 1: layer 3 is the model's last block"):
        encode(gpt2, last, [at_the_end, *REQUESTS])


def test_layers_that_do_not_ascend_are_refused(gpt2: EditableModel, gpt2_moments: Moments) -> None:
    """A residual is spread over them in order; ROME writes each for itself."""
    session, before = EditSession(gpt2, LAYERS), weights_of(gpt2)
    recipe = recipe_of(Memit(), gpt2_moments, (2, 0, 1))
    with pytest.raises(ModelError, match=r"model\.layers=\[0, 1, 2\]"):
        edit(session, recipe, REQUESTS)
    assert_same_weights(gpt2, before)
    edit(session, replace(recipe, method=Rome()), REQUESTS[:1])


def test_finalising_an_empty_run_adds_no_entry(gpt2: EditableModel) -> None:
    session = EditSession(gpt2, LAYERS)
    assert finalize(session, recipe_of(Prune(), {})) is None
    assert session.journal == []


def test_finalising_over_what_others_wrote_is_refused(
    gpt2: EditableModel, gpt2_moments: Moments
) -> None:
    session, recipe = EditSession(gpt2, LAYERS), recipe_of(Prune(20.0), gpt2_moments)
    edit(session, recipe, REQUESTS)
    gpt2.weight(1).zero_()
    with pytest.raises(AlphaEditError, match="was changed by something other"):
        finalize(session, recipe)
    assert not gpt2.weight(1).any()
