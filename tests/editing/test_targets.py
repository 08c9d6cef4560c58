from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alphaedit_plugin.common.errors import ConfigError, NumericalError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.editing.targets import Targets
from alphaedit_plugin.models import batching, hooks
from alphaedit_plugin.models.activations import Part, Site, read
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates, locate
from tests.published import published_loop
from tests.tiny import (
    CONTEXTS,
    DEPTH,
    REQUESTS,
    assert_same_weights,
    hook_count,
    relative,
    target_ids,
    targets_of,
)
from tests.tiny import weights_of as weights_before

SETTINGS = TargetSettings(steps=5, lr=0.1, clamp_norm_factor=0.6)
TWO = REQUESTS[2:]
SITES = [Site(2, Part.BLOCK), Site(1, Part.VALUE), Site(0, Part.BLOCK), Site(0, Part.VALUE)]


def search(
    lm: EditableModel,
    requests: list[Request],
    site: Site = SITES[0],
    settings: TargetSettings = SETTINGS,
    contexts: ContextTemplates = CONTEXTS,
    fact_token: FactToken = FactToken.subject_last,
) -> Targets:
    return targets_of(lm, requests, contexts, site, fact_token, settings)


@pytest.mark.parametrize("site", SITES, ids=str)
def test_it_is_the_published_loop(lm: EditableModel, site: Site) -> None:
    found = search(lm, REQUESTS, site)
    for column, request in enumerate(REQUESTS):
        value, loss = published_loop(lm, request, site, SETTINGS)
        assert relative(found.values[:, column], value) < 1e-4
        assert found.loss[column].item() == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("kind", list(FactToken))
def test_it_is_the_published_loop_at_every_fact_token(lm: EditableModel, kind: FactToken) -> None:
    found = search(lm, TWO, fact_token=kind)
    for column, request in enumerate(TWO):
        value, _ = published_loop(lm, request, SITES[0], SETTINGS, kind)
        assert relative(found.values[:, column], value) < 1e-4


@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_fact_token_may_be_the_very_first(lm: EditableModel, site: Site) -> None:
    request = Request.parse("{} plays", "Boris Lund", "tennis")
    together = search(lm, [request, *REQUESTS], site, fact_token=FactToken.subject_first)
    value, _ = published_loop(lm, request, site, SETTINGS, FactToken.subject_first)
    assert relative(together.values[:, 0], value) < 1e-4


def test_it_stops_where_the_published_loop_stops(lm: EditableModel) -> None:
    """Some requests are done before the first step, the others go on without them."""
    start = search(lm, REQUESTS, settings=TargetSettings(stop_loss=math.inf))
    eager = TargetSettings(steps=5, lr=0.1, stop_loss=start.loss.median().item() + 1e-3)
    found = search(lm, REQUESTS, settings=eager)
    done = start.loss < eager.stop_loss
    assert 0 < done.sum() < len(REQUESTS)
    assert torch.equal(found.values[:, done], start.values[:, done])
    for column, request in enumerate(REQUESTS):
        value, _ = published_loop(lm, request, SITES[0], eager)
        assert relative(found.values[:, column], value) < 1e-4


def test_a_request_that_is_done_stands_still_while_others_go_on(lm: EditableModel) -> None:
    easy = TargetSettings(steps=10, lr=0.05, weight_decay=0)
    first, last = (
        search(lm, REQUESTS, SITES[2], settings)
        for settings in (TargetSettings(stop_loss=math.inf, weight_decay=0), easy)
    )
    soonest = int(last.loss.argmin())
    stop = (first.loss[soonest].item() + 2 * last.loss[soonest].item()) / 3
    eager = TargetSettings(steps=10, lr=0.05, weight_decay=0, stop_loss=stop)
    found = search(lm, REQUESTS, SITES[2], eager)
    assert found.loss[soonest] < stop < found.loss.max()
    value, loss = published_loop(lm, REQUESTS[soonest], SITES[2], eager)
    assert relative(found.values[:, soonest], value) < 1e-4
    assert found.loss[soonest].item() == pytest.approx(loss, rel=1e-3)
    assert relative(value, first.values[:, soonest]) > 1e-3


@pytest.mark.parametrize("site", SITES, ids=str)
def test_requests_that_are_done_are_not_computed_on(
    lm: EditableModel, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four are done at once; the others go on as the published loop does."""
    monkeypatch.setattr(batching, "PASS_TOKENS", {"cpu": 10**9})  # all sentences run together
    first = search(lm, REQUESTS, site, TargetSettings(stop_loss=math.inf)).loss
    stop = first.sort().values[1:3].mean().item()
    settings = TargetSettings(steps=4, lr=0.05, stop_loss=stop)
    sentences: list[int] = []
    lm.block(3).register_forward_hook(lambda _, args, output: sentences.append(len(args[0])))
    found = search(lm, REQUESTS, site, settings)
    assert sentences[-1] <= sentences[0] / 2
    for column, request in enumerate(REQUESTS):
        value, loss = published_loop(lm, request, site, settings)
        assert relative(found.values[:, column], value) < 1e-4
        assert found.loss[column].item() == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("site", SITES[:2], ids=str)
@pytest.mark.parametrize("budget", [1, 200, 100_000])
def test_batched_is_one_by_one(lm: EditableModel, site: Site, budget: int) -> None:
    settings = TargetSettings(steps=4, lr=0.1, budget=budget)
    together = search(lm, REQUESTS, site, settings)
    for column, request in enumerate(REQUESTS):
        alone = search(lm, [request], site, settings)
        assert relative(together.values[:, column], alone.values[:, 0]) < 1e-4
        assert relative(together.probability[column], alone.probability[0]) < 1e-3


@pytest.mark.parametrize("kind", list(FactToken))
def test_it_starts_from_the_value_at_the_fact_token(lm: EditableModel, kind: FactToken) -> None:
    no_step = TargetSettings(stop_loss=math.inf)  # which only evaluates
    found = search(lm, REQUESTS, settings=no_step, fact_token=kind)
    sentences = [locate(lm.tokenizer, r.prompt, r.subject, kind) for r in REQUESTS]
    assert relative(found.values, read(lm, [SITES[0]], sentences)[SITES[0]]) < 1e-5


def test_the_answer_becomes_likelier(lm: EditableModel) -> None:
    settings = TargetSettings(steps=15, lr=0.05, weight_decay=0)
    before = search(lm, REQUESTS, SITES[2], TargetSettings(stop_loss=math.inf))
    after = search(lm, REQUESTS, SITES[2], settings)
    assert (after.probability > before.probability).all()
    assert (after.loss < before.loss).all()


def test_the_offset_stays_in_its_ball(lm: EditableModel) -> None:
    start = search(lm, REQUESTS, settings=TargetSettings(stop_loss=math.inf)).values
    wild = TargetSettings(steps=6, lr=5.0, clamp_norm_factor=0.3)
    moved = search(lm, REQUESTS, settings=wild).values - start
    reached = moved.norm(dim=0) / (0.3 * start.norm(dim=0))
    assert (reached < 1 + 1e-4).all()
    assert reached.max() > 1 - 1e-4  # most of them are at its edge


def test_without_contexts_the_bare_prompt_is_all(gpt2: EditableModel) -> None:
    bare = search(gpt2, REQUESTS, contexts=ContextTemplates.of([]))
    assert relative(bare.values, search(gpt2, REQUESTS).values) > 1e-3


def some_flags(lm: EditableModel) -> tuple[list[bool], list[bool]]:
    flags = [p.requires_grad for p in lm.model.parameters()]
    return flags, [m.training for m in lm.model.modules()]


def mix_flags(lm: EditableModel) -> None:
    lm.model.train()
    lm.block(1).eval()
    for parameter in list(lm.model.parameters())[::3]:
        parameter.requires_grad_(False)


@pytest.mark.parametrize("site", SITES[:2], ids=str)
def test_the_model_is_left_as_it_was(lm: EditableModel, site: Site) -> None:
    mix_flags(lm)
    flags, weights = some_flags(lm), weights_before(lm)
    search(lm, REQUESTS, site)
    assert some_flags(lm) == flags
    assert hook_count(lm.model) == 0
    assert all(p.grad is None for p in lm.model.parameters())
    assert_same_weights(lm, weights)


@pytest.mark.parametrize("call", [1, 2, 3, 5])
def test_the_model_is_left_as_it_was_after_an_error(lm: EditableModel, call: int) -> None:
    """The last block fails in one of its calls, or in the search itself."""
    mix_flags(lm)
    flags, calls = some_flags(lm), 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("broken")

    handle = lm.block(2).register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        search(lm, REQUESTS)
    handle.remove()
    assert some_flags(lm) == flags
    assert hook_count(lm.model) == 0


def test_a_forward_method_patched_by_others_is_put_back(lm: EditableModel) -> None:
    """As accelerate does when it spreads a model over devices."""
    patched = lm.block(0).forward
    lm.block(0).forward = patched
    search(lm, REQUESTS)
    assert lm.block(0).__dict__["forward"] is patched
    assert hook_count(lm.model) == 1


def test_blocks_below_the_site_do_not_run_at_every_step(
    lm: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "PASS_TOKENS", {"cpu": 10**9})
    runs = [0] * DEPTH
    for layer in range(DEPTH):

        def count(*_: Any, layer: int = layer) -> None:
            runs[layer] += 1

        lm.block(layer).mlp.register_forward_hook(count)
    search(lm, REQUESTS, settings=TargetSettings(steps=3, lr=0.1))
    few = list(runs)
    search(lm, REQUESTS, settings=TargetSettings(steps=9, lr=0.1))
    assert runs[:2] == [2 * n for n in few[:2]]
    assert runs[3] == 2 * few[3] + 6


def test_the_head_runs_only_where_a_token_is_predicted(lm: EditableModel) -> None:
    places: list[int] = []
    head = lm.model.get_output_embeddings()
    head.register_forward_hook(lambda _, args, output: places.append(output.shape[1]))
    search(lm, REQUESTS[:1], settings=TargetSettings(steps=3, lr=0.1, stop_loss=-1.0))
    request = REQUESTS[0]
    tokens = len(target_ids(lm.tokenizer, request.filled, request.target_new))
    scored = tokens * len(CONTEXTS.flat) + 1  # one more for the divergence
    assert places == [0, scored, scored, scored]


@pytest.mark.parametrize("worth", [0, 10, 10**9])
def test_sentences_of_any_length_run_together(
    lm: EditableModel, worth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they are grouped, the values are the same."""
    monkeypatch.setattr(batching, "PASS_TOKENS", {"cpu": 10**9})
    settings = TargetSettings(steps=4, lr=0.1)
    together = search(lm, REQUESTS, settings=settings)
    monkeypatch.setattr(batching, "PASS_TOKENS", {"cpu": worth})
    found = search(lm, REQUESTS, settings=settings)
    assert relative(found.values, together.values) < 1e-4
    assert relative(found.loss, together.loss) < 1e-3


def test_a_loss_that_is_not_finite_names_its_request(lm: EditableModel) -> None:
    (token,) = lm.tokenizer(" Norland")["input_ids"]

    def poison(_: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return output.masked_fill((args[0] == token)[..., None], torch.nan)

    lm.model.get_input_embeddings().register_forward_hook(poison)
    with pytest.raises(NumericalError, match=r"'The capital of Norland is' → 'Rome'.*loss nan"):
        search(lm, REQUESTS)


def test_a_caller_without_gradients_can_search(gpt2: EditableModel) -> None:
    expected = search(gpt2, REQUESTS).values
    with torch.no_grad():
        assert torch.equal(search(gpt2, REQUESTS).values, expected)


MIXED = replace(SETTINGS, mixed_precision=True)


def test_mixed_precision_finds_nearly_the_same(
    lm: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products are rounded, and nothing else: every weight is cast once, and is as it was after."""
    monkeypatch.setattr(hooks, "_multiplies_bfloat16", lambda device: True)
    mix_flags(lm)
    flags, weights, exact = some_flags(lm), weights_before(lm), search(lm, REQUESTS)
    dtypes = set()
    lm.block(2).mlp.register_forward_hook(lambda _, args, output: dtypes.add(output.dtype))
    rounded = search(lm, REQUESTS, settings=MIXED)
    assert dtypes == {torch.float32, torch.bfloat16}  # the initial value is read in full precision
    assert 1e-6 < relative(rounded.values, exact.values) < 0.1
    assert (rounded.probability - exact.probability).abs().max() < 0.1
    assert some_flags(lm) == flags
    assert all(p.grad is None for p in lm.model.parameters())
    assert_same_weights(lm, weights)


def test_mixed_precision_is_off_where_the_processor_has_none(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hooks, "_multiplies_bfloat16", lambda device: False)
    expected = search(gpt2, TWO)
    assert torch.equal(search(gpt2, TWO, settings=MIXED).values, expected.values)
    assert "cpu has no bfloat16 products" in caplog.text


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("steps", [0, 1]),
        ("lr", [0.0, -1.0, 1e38, math.inf, math.nan]),
        ("weight_decay", [-0.1, math.inf, math.nan]),
        ("kl_factor", [-0.1, math.nan]),
        ("clamp_norm_factor", [0.0, -1.0, math.nan]),
        ("stop_loss", [math.nan]),
        ("budget", [0]),
    ],
)
def test_settings_that_make_no_sense_are_refused(field: str, bad: list[float]) -> None:
    for value in bad:
        with pytest.raises(
            ConfigError, match=re.escape(f"model.target.{field} is {value}: it must be")
        ):
            TargetSettings(**{field: value})
    with pytest.raises(ConfigError, match=rf"model\.target\.{field} is"):
        load_config([f"model.target.{field}={bad[0]}"])
