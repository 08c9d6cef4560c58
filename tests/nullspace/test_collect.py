"""Second moments from a corpus: what is summed, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError, NumericalError
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.collect import Halves, collect_second_moments, memory_needed
from alphaedit_plugin.nullspace.second_moment import MomentSum
from tests.tiny import CONTEXT, DEPTH, TEXTS, hook_count, random_sequences, relative


def keys_of(lm: EditableModel, layer: int, rows: list[list[int]]) -> Tensor:
    """``(tokens, d_in)`` in float64, one unpadded forward pass per text."""
    seen: list[Tensor] = []
    handle = lm.down_proj(layer).register_forward_pre_hook(
        lambda _, args: seen.append(args[0][0].double())
    )
    with torch.no_grad():
        for row in rows:
            lm.model(torch.tensor([row]))
    handle.remove()
    return torch.cat(seen)


def ragged(lm: EditableModel) -> list[list[int]]:
    rows = random_sequences(len(lm.tokenizer), count=30)
    return [row[: 1 + 3 * i % 20] for i, row in enumerate(rows)]


@pytest.mark.parametrize("budget", [1, 50, 8192])
def test_streaming_is_the_dense_formula(lm: EditableModel, budget: int) -> None:
    rows = ragged(lm)
    found = collect_second_moments(lm, rows, range(DEPTH), budget=budget)
    for layer, moment in found.items():
        keys = keys_of(lm, layer, rows)
        assert moment.count == len(keys)
        assert relative(moment.mean, keys.T @ keys / len(keys)) < 1e-5


def test_layers_are_collected_in_one_pass(lm: EditableModel) -> None:
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    lm.block(0).register_forward_hook(count)
    found = collect_second_moments(lm, ragged(lm), [2, 0, 1])
    assert runs == 1
    assert list(found) == [2, 0, 1]


def test_layers_together_are_the_layers_alone(lm: EditableModel) -> None:
    rows = ragged(lm)
    together = collect_second_moments(lm, rows, range(DEPTH))
    for layer in range(DEPTH):
        alone = collect_second_moments(lm, rows, [layer])[layer]
        assert torch.equal(alone.total, together[layer].total)


@pytest.mark.parametrize("window", [CONTEXT, 10])
def test_long_texts_are_read_in_windows(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """Of the model's context, or shorter ones: memory holds no whole book. No token is lost."""
    monkeypatch.setattr("alphaedit_plugin.nullspace.collect.WINDOW", window)
    long_text = " ".join(TEXTS * 3)
    ids = gpt2.tokenizer(long_text)["input_ids"]
    assert len(ids) > 2 * CONTEXT
    pieces = [ids[start : start + window] for start in range(0, len(ids), window)]
    from_text = collect_second_moments(gpt2, [long_text], [1])[1]
    from_pieces = collect_second_moments(gpt2, pieces, [1])[1]
    assert from_text.count == len(ids)
    assert torch.equal(from_text.total, from_pieces.total)
    widest = 0

    def look(_: Any, args: Any) -> None:
        nonlocal widest
        widest = max(widest, args[0].shape[1])

    gpt2.model.get_input_embeddings().register_forward_pre_hook(look)
    cut = collect_second_moments(gpt2, [long_text], [1], tokens=window + 3)[1]
    assert (cut.count, widest) == (window + 3, window)


def test_it_stops_once_there_are_enough_tokens(gpt2: EditableModel) -> None:
    def endless() -> Any:
        yield from random_sequences(len(gpt2.tokenizer), count=600)
        raise AssertionError("read on after there was enough")

    found = collect_second_moments(gpt2, endless(), [0, 1], tokens=990, budget=200)
    assert found[0].count == found[1].count == 990


@pytest.mark.parametrize("corpus", [[], [[]], [""]])
def test_a_corpus_without_a_token_is_refused(gpt2: EditableModel, corpus: list[Any]) -> None:
    with pytest.raises(ConfigError, match="no token"):
        collect_second_moments(gpt2, corpus, [0])


def test_the_model_is_left_as_it_was_even_on_error(lm: EditableModel) -> None:
    lm.model.train()
    collect_second_moments(lm, ragged(lm), [1])
    with torch.no_grad():
        lm.block(0).get_parameter(next(iter(dict(lm.block(0).named_parameters())))).fill_(torch.nan)
    with pytest.raises(NumericalError, match="keys of layer 1 are not finite"):
        collect_second_moments(lm, ragged(lm), [1])
    assert hook_count(lm.model) == 0
    assert lm.model.training
    assert all(p.requires_grad for p in lm.model.parameters())


@pytest.mark.parametrize("tokens", [0, -1])
def test_a_number_of_tokens_that_is_none_is_refused(gpt2: EditableModel, tokens: int) -> None:
    with pytest.raises(ConfigError, match=f"tokens is {tokens}: give at least 1"):
        collect_second_moments(gpt2, [[1]], [0], tokens)


@pytest.mark.parametrize("token", [-1, 330, 10**9])
def test_a_token_of_another_vocabulary_is_refused(gpt2: EditableModel, token: int) -> None:
    with pytest.raises(ConfigError, match=rf"text 2 of the corpus holds token {token}, .* 329"):
        collect_second_moments(gpt2, [[1], [2, token, 3]], [0])


def test_one_token_is_a_corpus(gpt2: EditableModel) -> None:
    moment = collect_second_moments(gpt2, [[7]], [2])[2]
    assert moment.count == 1
    assert torch.linalg.matrix_rank(moment.total, rtol=1e-6) == 1


def test_half_precision_is_summed_in_full(gpt2: EditableModel) -> None:
    """Keys are rounded where the model rounds them; their products and sum are not."""
    gpt2.model.to(torch.bfloat16)
    rows = ragged(gpt2)
    moment = collect_second_moments(gpt2, rows, [1], budget=1)[1]
    keys = keys_of(gpt2, 1, rows)
    assert relative(moment.total, keys.T @ keys) < 1e-6


def test_it_says_that_memory_is_missing(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(MomentSum, "empty", fail)
    with pytest.raises(ConfigError, match=r"no memory .* of 2 layers, .* fit fewer layers"):
        collect_second_moments(gpt2, [[7]], [0, 1])


def test_memory_is_that_of_the_sums(gpt2: EditableModel) -> None:
    d_in = 128
    products = 12 * d_in * d_in
    assert memory_needed(gpt2, [0, 1]) == 2 * 8 * d_in**2 + products
    assert memory_needed(gpt2, [0, 1], halves=True) == 4 * 8 * d_in**2 + products


# ---------------------------------------------------------------------------------------------
# Stopping early


@dataclass
class Looks:
    """Says that it is enough at the given look."""

    stop_at: int
    sums: list[float] = field(default_factory=list)

    def due(self, before: int, now: int) -> bool:
        return True

    def enough(self, halves: Halves, tokens: int) -> bool:
        even, odd = halves[1]
        assert even.count + odd.count == tokens
        self.sums.append((even.total + odd.total).norm().item())
        return len(self.sums) == self.stop_at


def test_halves_are_even_and_odd_texts(gpt2: EditableModel) -> None:
    rows = ragged(gpt2)
    seen: list[Any] = []

    class Once(Looks):
        def enough(self, halves: Halves, tokens: int) -> bool:
            seen.append({layer: [half.total.clone() for half in both]
                         for layer, both in halves.items()})  # fmt: skip
            return False

    whole = collect_second_moments(gpt2, rows, [1], watch=Once(0))[1]
    for half, found in enumerate(seen[-1][1]):
        alone = collect_second_moments(gpt2, rows[half::2], [1])[1]
        assert relative(found, alone.total) < 1e-6
    assert relative(whole.total, collect_second_moments(gpt2, rows, [1])[1].total) < 1e-6


def test_it_stops_when_the_watch_has_enough(gpt2: EditableModel) -> None:
    rows = random_sequences(len(gpt2.tokenizer), count=60)
    watch = Looks(stop_at=2)
    moment = collect_second_moments(gpt2, rows, [1], budget=100, watch=watch)[1]
    assert moment.count == 2 * 200
    assert moment.total.norm().item() == watch.sums[-1]
