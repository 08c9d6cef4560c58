from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alphaedit_plugin.errors import ConfigError, NumericalError
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.statistics import (
    HostMoments,
    SecondMoment,
    collect_second_moments,
    read_host_moment,
)
from tests.tiny import CONTEXT, DEPTH, TEXTS, hook_count, random_sequences, relative


def keys_of(view: EditableModel, layer: int, rows: list[list[int]]) -> Tensor:
    """``(tokens, d_in)`` in float64, one unpadded forward pass per text."""
    seen: list[Tensor] = []
    handle = view.down_proj(layer).register_forward_pre_hook(
        lambda _, args: seen.append(args[0][0].double())
    )
    with torch.no_grad():
        for row in rows:
            view.model(torch.tensor([row]))
    handle.remove()
    return torch.cat(seen)


def ragged(view: EditableModel) -> list[list[int]]:
    rows = random_sequences(len(view.tokenizer), count=30)
    return [row[: 1 + 3 * i % 20] for i, row in enumerate(rows)]


@pytest.mark.parametrize("budget", [1, 50, 8192])
def test_streaming_is_the_dense_formula(view: EditableModel, budget: int) -> None:
    rows = ragged(view)
    found = collect_second_moments(view, rows, range(DEPTH), budget=budget)
    for layer, moment in found.items():
        keys = keys_of(view, layer, rows)
        assert moment.count == len(keys)
        assert relative(moment.mean, keys.T @ keys / len(keys)) < 1e-5


def test_layers_are_collected_in_one_pass(view: EditableModel) -> None:
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    view.block(0).register_forward_hook(count)
    found = collect_second_moments(view, ragged(view), [2, 0, 1])
    assert runs == 1
    assert list(found) == [2, 0, 1]


def test_layers_together_are_the_layers_alone(view: EditableModel) -> None:
    rows = ragged(view)
    together = collect_second_moments(view, rows, range(DEPTH))
    for layer in range(DEPTH):
        alone = collect_second_moments(view, rows, [layer])[layer]
        assert torch.equal(alone.total, together[layer].total)


def test_texts_are_tokenised_and_cut_to_the_models_context(gpt2: EditableModel) -> None:
    long_text = " ".join(TEXTS * 3)
    ids = gpt2.tokenizer(long_text)["input_ids"]
    assert len(ids) > CONTEXT
    from_text = collect_second_moments(gpt2, [long_text], [1])[1]
    from_ids = collect_second_moments(gpt2, [ids[:CONTEXT]], [1])[1]
    assert from_text.count == CONTEXT
    assert torch.equal(from_text.total, from_ids.total)


def test_it_stops_once_there_are_enough_tokens(gpt2: EditableModel) -> None:
    def endless() -> Any:
        yield from random_sequences(len(gpt2.tokenizer), count=600)
        raise AssertionError("read on after there was enough")

    found = collect_second_moments(gpt2, endless(), [0, 1], tokens=1000, budget=200)
    assert 1000 <= found[0].count == found[1].count < 1000 + 200


@pytest.mark.parametrize("corpus", [[], [[]], [""]])
def test_a_corpus_without_a_token_is_refused(gpt2: EditableModel, corpus: list[Any]) -> None:
    with pytest.raises(ConfigError, match="no token"):
        collect_second_moments(gpt2, corpus, [0])


def test_the_model_is_left_as_it_was_even_on_error(view: EditableModel) -> None:
    view.model.train()
    collect_second_moments(view, ragged(view), [1])
    with pytest.raises(IndexError):
        collect_second_moments(view, [[10**6]], [1])
    assert hook_count(view.model) == 0
    assert view.model.training
    assert all(p.requires_grad for p in view.model.parameters())


def moment_of(keys: Tensor) -> SecondMoment:
    return SecondMoment((keys.T @ keys).double(), len(keys))


def test_whitening_solves_with_the_moment() -> None:
    moment, keys = moment_of(torch.randn(100, 8)), torch.randn(8, 3)
    whitened = moment.whiten(keys)
    assert whitened.dtype == torch.float64
    assert relative(moment.mean @ whitened, keys) < 1e-10


def test_a_regular_moment_gets_no_jitter(caplog: pytest.LogCaptureFixture) -> None:
    moment = moment_of(torch.randn(100, 8))
    assert relative(moment.factor @ moment.factor.T, moment.mean) < 1e-12
    assert not caplog.records


def test_a_singular_moment_is_whitened_within_its_span(caplog: pytest.LogCaptureFixture) -> None:
    moment = moment_of(torch.randn(3, 8))  # fewer keys than dimensions
    with caplog.at_level(logging.WARNING):
        seen = moment.mean @ torch.randn(8, 2, dtype=torch.float64)
        back = moment.mean @ moment.whiten(seen)
    assert relative(back, seen) < 1e-5
    assert "3 keys in 8 dimensions is singular" in caplog.text


@pytest.mark.parametrize(
    ("total", "message"),
    [
        (torch.full((2, 2), torch.nan), "not finite"),
        (torch.diag(torch.tensor([1.0, -1.0])), "not positive semi-definite"),
        (torch.zeros(2, 2), "not positive semi-definite"),
    ],
)
def test_a_moment_that_cannot_be_one_is_refused(total: Tensor, message: str) -> None:
    with pytest.raises(NumericalError, match=message):
        SecondMoment(total.double(), 1).whiten(torch.ones(2, 1))


def test_the_hosts_file_is_read(tmp_path: Path) -> None:
    """As EasyEdit's ``runningstats`` writes it: the raw sum, and the count beside it."""
    host = HostMoments(tmp_path, "openai-community/gpt2-xl", samples=500)
    path = host.path("transformer.h.13.mlp.c_proj")
    expected = "gpt2-xl/wikipedia_stats/transformer.h.13.mlp.c_proj_float32_mom2_500.npz"
    assert path == tmp_path / expected
    path.parent.mkdir(parents=True)
    keys = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
    np.savez(
        path,
        **{
            "mom2.mom2": keys.T @ keys,
            "mom2.count": 50,
            "mom2.constructor": "util.runningstats.SecondMoment()",
            "constructor": "util.runningstats.CombinedStat()",
            "sample_size": 500,
        },
    )
    moment = read_host_moment(path)
    assert moment.count == 50
    assert relative(moment.mean, torch.from_numpy(keys.T @ keys / 50)) < 1e-6


def test_a_missing_host_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no second moment at .*x\.npz"):
        read_host_moment(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"PK\x03\x04 cut off", b"\x93NUMPY"],
)
def test_a_damaged_host_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.npz is not a second moment"):
        read_host_moment(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {"mean": np.zeros(3)},
        {"mom2.mom2": np.zeros((2, 3)), "mom2.count": 4},
        {"mom2.mom2": np.zeros(4), "mom2.count": 4},
        {"mom2.mom2": np.array([None, {}], dtype=object), "mom2.count": 4},
        {"mom2.mom2": np.zeros((2, 2)), "mom2.count": [1, 2]},
    ],
)
def test_a_host_file_of_another_kind_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConfigError, match=r"x\.npz"):
        read_host_moment(tmp_path / "x.npz")


def test_a_single_array_in_place_of_the_host_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as stream:
        np.save(stream, np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="is not a second moment"):
        read_host_moment(tmp_path / "x.npz")
