"""What edits share and what they do not: models, editors, threads, edits that were taken back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import alphaedit_plugin
from alphaedit_plugin import RECTHyperParams
from alphaedit_plugin.easyedit.host import second_moment_of
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel
from tests.host.conftest import FRESH
from tests.host.test_flag import NAMES, asked, flag, leaks, run, weights
from tests.host.tiny_host import (
    TinyHostModel,
    algorithms,
    main_module,
    pin_contexts,
    skip_without_host,
)

skip_without_host()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, right[name]) for name, weight in left.items())


def nth(tiny: TinyHostModel, number: int) -> list[dict[str, str]]:
    return [dict(tiny.requests[number])]


def asked_for(tiny: TinyHostModel, number: int) -> dict[str, Any]:
    """The arguments of an edit of one request."""
    given = asked(tiny, number + 1)
    return {k: v[number:] if isinstance(v, list) else v for k, v in given.items()}


# Editors and models


@pytest.mark.parametrize("method", NAMES)
def test_an_edit_taken_back_leaves_no_trace(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str
) -> None:
    """Host issue 613, for every method and through its editor."""

    def edited(*first: int) -> dict[str, Tensor]:
        pin_contexts(method)
        hparams = tiny_gpt2.hparams(method, **flag(tiny_gpt2))
        editor = registered.BaseEditor.from_hparams(hparams)
        for number in first:
            editor.edit(**asked_for(tiny_gpt2, number), sequential_edit=False)
        editor.edit(**asked_for(tiny_gpt2, 2), sequential_edit=True)
        return weights(editor.model)

    assert same(edited(0, 1), edited())


@pytest.mark.parametrize("method", NAMES)
def test_models_that_take_turns_share_nothing(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str
) -> None:
    """With one hparams object for both."""
    hparams = tiny_gpt2.hparams(method, **flag(tiny_gpt2))
    alone, first, second = (tiny_gpt2.load() for _ in range(3))
    pin_contexts(method)
    apply = algorithms()[method]
    for number in (0, 1):
        apply(*alone, nth(tiny_gpt2, number), hparams)
    for number in (0, 1):
        apply(*first, nth(tiny_gpt2, number), hparams)
        apply(*second, nth(tiny_gpt2, number + 2), hparams)
    assert same(weights(first[0]), weights(alone[0]))
    assert not same(weights(second[0]), weights(alone[0]))


@pytest.mark.parametrize("method", ["MEMIT", "ROME"])
def test_threads_edit_one_after_another(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str
) -> None:
    """An edit replaces functions of the host's module, which another must not meet."""
    pin_contexts(method)
    apply, start = algorithms()[method], Barrier(3)

    def edit(model: Any, number: int, null_space: bool) -> None:
        hparams = tiny_gpt2.hparams(method, **flag(tiny_gpt2, null_space=null_space))
        apply(*model, nth(tiny_gpt2, number), hparams)

    def edit_at_once(model: Any, number: int, null_space: bool) -> None:
        start.wait(60)
        edit(model, number, null_space)

    jobs = [(0, True), (1, True), (2, False)]
    together, alone = ([tiny_gpt2.load() for _ in jobs] for _ in range(2))
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(edit_at_once, m, *j) for m, j in zip(together, jobs, strict=True)]
    for done, at_once, one, job in zip(running, together, alone, jobs, strict=True):
        done.result()
        edit(one, *job)
        assert same(weights(at_once[0]), weights(one[0]))


# Keys of earlier edits


def rect(tiny: TinyHostModel, **keys: Any) -> RECTHyperParams:
    settings = {**tiny.settings("MEMIT"), "alg_name": "RECT", **keys}
    return RECTHyperParams(**settings)


def hparams_of(tiny: TinyHostModel, method: str, **keys: Any) -> Any:
    if method == "RECT":
        return rect(tiny, **keys, keep_percent=100.0)
    return tiny.hparams(method, **keys)


@pytest.mark.parametrize("method", ["MEMIT", "RECT"])
def test_a_correction_lets_go_of_the_key_that_it_replaces(
    registered: ModuleType, tiny: TinyHostModel, method: str
) -> None:
    """As on a model that remembers no edit: held, the key would stay where it was put."""
    pin_contexts("MEMIT")
    hparams = hparams_of(tiny, method, **flag(tiny, null_space_l2=1e-5, layers=[2]))
    (kept, tokenizer), (fresh, _) = tiny.load(), tiny.load()
    algorithms()[method](kept, tokenizer, nth(tiny, 0), hparams)
    before = weights(kept)
    fresh.load_state_dict(kept.state_dict())
    correction = [tiny.requests[0] | {"target_new": tiny.requests[1]["target_new"]}]
    for model in (kept, fresh):
        algorithms()[method](model, tokenizer, [dict(correction[0])], hparams)
    moved, expected = ({n: w - before[n] for n, w in weights(m).items()} for m in (kept, fresh))
    assert any(delta.norm() > 1e-2 for delta in moved.values())
    for name, delta in moved.items():
        torch.testing.assert_close(delta, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("between", ["nothing", "plain", "foreign"])
@pytest.mark.parametrize("method", ["MEMIT", "RECT"])
def test_keys_count_while_their_edit_is_in_the_weights(
    registered: ModuleType, tiny: TinyHostModel, method: str, between: str
) -> None:
    """An edit without the flag in between, or of someone else's, takes nothing away from them."""
    pin_contexts("MEMIT")
    apply = algorithms()[method]
    keys = flag(tiny, null_space_l2=1e-5, layers=[2])
    hparams = hparams_of(tiny, method, **keys)
    model, tokenizer = tiny.load()
    apply(model, tokenizer, nth(tiny, 0), hparams)
    key = first_key(model, tokenizer, tiny)
    if between == "plain":
        hparams.null_space = False
        apply(model, tokenizer, nth(tiny, 1), hparams)
        hparams.null_space = True
    elif between == "foreign":
        with torch.no_grad():
            weight = model.get_parameter(tiny.weight_names((2,))[0])
            weight += 1e-3 * weight.std() * torch.randn_like(weight)
    fresh, _ = tiny.load()
    fresh.load_state_dict(model.state_dict())

    def moved(found: Any, given: Any) -> float:
        lm = EditableModel.wrap(found, tokenizer)
        before = lm.weight(2).clone()
        apply(found, tokenizer, nth(tiny, 2), given)
        return ((lm.weight(2) - before) @ key).norm().item()

    forgetful = moved(fresh, hparams_of(tiny, method, **keys))
    assert moved(model, hparams) < 0.05 * forgetful


def first_key(model: Any, tokenizer: Any, tiny: TinyHostModel) -> Tensor:
    """The key ``(d_in,)`` of the first request in layer 2 of the edited model."""
    module = main_module("MEMIT")
    templates = module.CONTEXT_TEMPLATES_CACHE
    hparams = tiny.hparams("MEMIT")
    return module.compute_ks(model, tokenizer, nth(tiny, 0), hparams, 2, templates)[0].detach()


def test_settings_may_change_between_edits_of_our_own_methods(
    registered: ModuleType, tiny: TinyHostModel
) -> None:
    """As with the host's: the object is the user's."""
    pin_contexts("MEMIT")
    hparams, apply = rect(tiny, **flag(tiny, null_space=False)), algorithms()["RECT"]
    model, tokenizer = tiny.load()
    lm = EditableModel.wrap(model, tokenizer)
    apply(model, tokenizer, nth(tiny, 0), hparams)
    session = EditSession(lm, hparams.layers)
    hparams.null_space = True
    apply(model, tokenizer, nth(tiny, 1), hparams)
    for layer in hparams.layers:
        delta = (lm.weight(layer) - session.pristine(layer)).double()
        module = lm.layout.down_proj.format(layer)
        values, vectors = torch.linalg.eigh(
            second_moment_of(model, tokenizer, module, hparams).double()
        )
        used = vectors[:, values >= tiny.nullspace_threshold]
        assert 0 < (delta @ used).norm() < 1e-4 * delta.norm()


# In and out


@pytest.fixture
def unregistered(host: ModuleType) -> Iterator[ModuleType]:
    """The host, which the test registers with itself; also a failed one leaves nothing behind."""
    yield host
    alphaedit_plugin.unregister()


def everything() -> dict[tuple[str, str], Any]:
    """All that is in the host's modules and classes, by place."""
    found: dict[tuple[str, str], Any] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "easyeditor":
            continue
        for key, value in list(vars(module).items()):
            found[name, key] = value
            if isinstance(value, type) and value.__module__.startswith("easyeditor"):
                place = f"{value.__module__}.{value.__qualname__}"
                found |= {(place, own): kept for own, kept in vars(value).items()}
    found |= {("algorithms", key): value for key, value in algorithms().items()}
    return found


def changed(before: dict[tuple[str, str], Any]) -> set[tuple[str, str]]:
    now = everything()
    places = before.keys() | now.keys()
    nothing = object()
    return {p for p in places if before.get(p, nothing) is not now.get(p, nothing)}


@pytest.mark.parametrize("method", NAMES)
def test_unregister_puts_everything_back(
    unregistered: ModuleType, tiny_gpt2: TinyHostModel, method: str
) -> None:
    """Every name in every module and class of the host, but for its own caches, is what it was."""
    order, before = list(algorithms()), everything()
    alphaedit_plugin.register()
    assert changed(before)
    run(method, tiny_gpt2, nth(tiny_gpt2, 0), **flag(tiny_gpt2))
    alphaedit_plugin.register()
    alphaedit_plugin.unregister()
    caches = {*FRESH, "__annotations__", "__abstractmethods__"}
    assert {place for place in changed(before) if place[1] not in caches} == set()
    assert list(algorithms()) == order


@pytest.mark.parametrize("method", NAMES)
def test_leaving_during_an_edit(
    unregistered: ModuleType, tiny_gpt2: TinyHostModel, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edit that is under way ends projected; the host is as before."""
    before = dict(algorithms())
    module = main_module(method)
    name = "compute_v" if method in ("ROME", "R-ROME") else "compute_ks"
    real: Callable[..., Any] = getattr(module, name)

    def leaving(*args: Any, **kwargs: Any) -> Any:
        alphaedit_plugin.unregister()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, leaving)
    gate = module.upd_matrix_match_shape
    alphaedit_plugin.register()
    model, _ = run(method, tiny_gpt2, nth(tiny_gpt2, 0), **flag(tiny_gpt2))
    assert max(leaks(tiny_gpt2, method, model).values()) < 1e-5
    assert algorithms() == before
    assert module.upd_matrix_match_shape is gate
    assert getattr(module, name) is leaving
