from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.models.activations import Part, Reader, Site, average, read
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates, Sentence
from tests.tiny import DEPTH, hook_count, random_sequences, relative

SITES = [Site(layer, part) for layer in range(DEPTH) for part in Part]


def sentences_for(lm: EditableModel) -> list[Sentence]:
    """Of many lengths and positions, in no order."""
    rows = random_sequences(len(lm.tokenizer), count=9)
    lengths = [5, 20, 1, 13, 8, 20, 2, 3, 11]
    return [
        Sentence(tuple(r[:n]), (7 * n) % n // 2) for r, n in zip(rows, lengths, strict=True)
    ] + [
        Sentence(tuple(rows[0][:6]), 5),
        Sentence(tuple(rows[0][:6]), 0),
    ]


def plain(lm: EditableModel, sentence: Sentence) -> dict[Site, Tensor]:
    """Every site, from an unpadded forward pass, without this package."""
    seen: dict[Site, Tensor] = {}
    handles = []
    for layer in range(DEPTH):
        module = lm.down_proj(layer)

        def keep(_: Any, args: Any, output: Tensor, layer: int = layer) -> None:
            seen[Site(layer, Part.KEY)] = args[0][0, sentence.position]
            seen[Site(layer, Part.VALUE)] = output[0, sentence.position]

        handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        out = lm.model(torch.tensor([sentence.ids]), output_hidden_states=True)
    for handle in handles:
        handle.remove()
    for layer in range(DEPTH - 1):  # the last hidden state comes after the final norm
        seen[Site(layer, Part.BLOCK)] = out.hidden_states[layer + 1][0, sentence.position]
    return seen


def test_it_reads_what_a_plain_forward_pass_shows(lm: EditableModel) -> None:
    sentences = sentences_for(lm)
    found = read(lm, SITES, sentences)
    for column, sentence in enumerate(sentences):
        for site, vector in plain(lm, sentence).items():
            assert relative(found[site][:, column], vector) < 1e-5, (site, column)


def test_a_blocks_output_is_what_the_next_block_gets(lm: EditableModel) -> None:
    last = Site(DEPTH - 1, Part.BLOCK)
    sentence = sentences_for(lm)[0]
    value = read(lm, [last], [sentence])[last]
    final_norm = lm.model.get_submodule(
        "model.norm" if hasattr(lm.model, "model") else "transformer.ln_f"
    )
    logits = lm.model(torch.tensor([sentence.ids])).logits[0, sentence.position]
    assert relative(lm.model.lm_head(final_norm(value[:, 0])), logits) < 1e-5


@pytest.mark.parametrize("budget", [1, 30, 60, 10_000])
def test_batched_is_one_by_one(lm: EditableModel, budget: int) -> None:
    sentences = sentences_for(lm)
    together = read(lm, SITES, sentences, budget)
    for column, sentence in enumerate(sentences):
        alone = read(lm, SITES, [sentence])
        for site in SITES:
            assert relative(together[site][:, column], alone[site][:, 0]) < 1e-5


def test_the_forward_pass_ends_after_the_deepest_site(lm: EditableModel) -> None:
    ran: list[int] = []
    for layer in range(lm.depth):
        lm.block(layer).register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer))
    read(lm, [Site(0, Part.KEY), Site(1, Part.BLOCK)], sentences_for(lm))
    assert set(ran) == {0, 1}


def test_a_half_precision_model_gives_float32(gpt2: EditableModel) -> None:
    gpt2.model.to(torch.bfloat16)
    found = read(gpt2, [Site(1, Part.KEY)], sentences_for(gpt2))
    assert found[Site(1, Part.KEY)].dtype == torch.float32


def test_no_hook_stays_after_an_error(lm: EditableModel) -> None:
    beyond = Sentence((10**6,), 0)  # no such token
    lm.model.train()
    with pytest.raises(IndexError):
        read(lm, SITES, [beyond])
    assert hook_count(lm.model) == 0
    assert lm.model.training


def test_dropout_is_off_while_reading(lm: EditableModel) -> None:
    sentences = sentences_for(lm)
    site = Site(2, Part.KEY)
    quiet = read(lm, [site], sentences)[site]
    lm.model.train()
    assert torch.equal(read(lm, [site], sentences)[site], quiet)


def test_average_weighs_the_contexts_of_each_request() -> None:
    contexts = ContextTemplates.of(["A. {}", "B. {}"])
    columns = torch.tensor([[4.0, 1.0, 3.0, 0.0, 10.0, 30.0]])
    assert average(columns, contexts.weights).tolist() == [[3.0, 10.0]]


def test_average_in_one_group_is_the_mean() -> None:
    contexts = ContextTemplates.of(["A. {}", "B. {}"], bare_apart=False)
    columns = torch.randn(5, 12)
    assert torch.allclose(average(columns, contexts.weights), columns.view(5, 4, 3).mean(2))


def shake(lm: EditableModel, layer: int) -> None:
    lm.weight(layer).add_(torch.randn_like(lm.weight(layer)), alpha=0.1)


@pytest.mark.parametrize("budget", [1, 8, 60, 10_000], ids=["none", "some", "most", "all"])
def test_a_reader_sees_what_a_new_pass_sees(lm: EditableModel, budget: int) -> None:
    """For any share of cached sentences, with layers written in between."""
    sentences = sentences_for(lm)
    reader, value = Reader(lm, sentences, budget), Site(3, Part.BLOCK)
    before = read(lm, [value], sentences)[value]
    for layer in (0, 2, 3):
        key = Site(layer, Part.KEY)
        fresh = read(lm, [key, value], sentences)
        assert relative(reader.read_key(layer), fresh[key]) < 1e-5
        assert relative(reader.read([value], every=3)[value], fresh[value][:, ::3]) < 1e-5
        shake(lm, layer)
    assert relative(read(lm, [value], sentences)[value], before) > 1e-2


def test_a_layers_keys_do_not_depend_on_its_own_or_later_writes(lm: EditableModel) -> None:
    sentences, key = sentences_for(lm), Site(1, Part.KEY)
    before = read(lm, [key], sentences)[key]
    shake(lm, 1)
    shake(lm, 2)
    assert torch.equal(read(lm, [key], sentences)[key], before)
    shake(lm, 0)
    assert relative(read(lm, [key], sentences)[key], before) > 1e-3


def test_a_reader_runs_no_block_below_the_last_one(lm: EditableModel) -> None:
    reader = Reader(lm, sentences_for(lm))
    ran: list[int] = []
    for layer in range(DEPTH):
        attention = next(m for name, m in lm.block(layer).named_children() if "attn" in name)
        attention.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    reader.read_key(2)
    assert ran == [0, 1, 2]
    reader.read_key(2)
    assert ran == [0, 1, 2, 2]


def test_tokens_after_the_fact_token_do_not_run(lm: EditableModel) -> None:
    key = Site(1, Part.KEY)
    with_more = Sentence((5, 6, 7, 8, 9), 2)
    seen: list[int] = []
    lm.block(0).register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    read(lm, [key], [with_more])
    assert seen == [3]
