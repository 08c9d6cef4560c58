"""Models of unknown families; that known ones are found too is in `tests.architectures`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.models.discover import discover
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.families import LAYOUTS
from tests.architectures.zoo import build
from tests.tiny import assert_same_weights, hook_count, weights_of

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
EXPERTS = SMALL | {"num_key_value_heads": 2, "num_experts_per_tok": 2}


def unknown(name: str, **settings: Any) -> Any:
    """A model whose ``model_type`` says nothing."""
    model = build(name, 99, **settings)
    model.config.model_type = "mine"
    return model


@pytest.fixture
def internlm2() -> Any:
    """A Llama with the names of InternLM2, which is not among transformers' own."""
    model = unknown("llama")
    for block in model.model.layers:
        mlp = block.mlp
        block.feed_forward = mlp
        del block._modules["mlp"]
        mlp.w2 = mlp.down_proj
        del mlp._modules["down_proj"]
        mlp.forward = lambda x, m=mlp: m.w2(m.act_fn(m.gate_proj(x)) * m.up_proj(x))
        block.forward = _forward.__get__(block)
    return model


def _forward(self: Any, hidden_states: Any, **kwargs: Any) -> Any:
    attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
    hidden = hidden_states + attended
    return hidden + self.feed_forward(self.post_attention_layernorm(hidden))


def test_a_warning_gives_the_choice_as_settings(
    internlm2: Any, caplog: pytest.LogCaptureFixture
) -> None:
    layout = EditableModel.wrap(internlm2, None).layout
    assert layout.down_proj == "model.layers.{}.feed_forward.w2"
    (message,) = caplog.messages
    assert "'mine' is not known" in message
    for setting in (
        "model.layout.block='model.layers.{}'",
        "model.layout.down_proj='model.layers.{}.feed_forward.w2'",
        "model.layout.final_norm='model.norm'",
        "model.layout.adds_mlp=true",
    ):
        assert setting in message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "granite", "phi"])
def test_in_half_precision(name: str, dtype: torch.dtype) -> None:
    expected = discover(unknown(name), {})
    assert discover(unknown(name).to(dtype), {}) == expected


def test_the_model_is_left_as_it_was(internlm2: Any) -> None:
    internlm2.train()
    lm = EditableModel(internlm2, None, LAYOUTS.get("llama"))
    before, patched = weights_of(lm), hook_count(internlm2)
    discover(internlm2, {})
    assert_same_weights(lm, before)
    assert hook_count(internlm2) == patched
    assert all(module.training for module in internlm2.modules())
    assert all(parameter.requires_grad for parameter in internlm2.parameters())


def test_what_is_given_is_not_looked_for(internlm2: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Here attention's output projection, which is not the MLP's."""
    path = "model.layers.{}.self_attn.o_proj"
    layout = discover(internlm2, {"down_proj": path})
    assert layout.down_proj == path
    assert not layout.adds_mlp
    assert layout.final_norm == "model.norm"
    assert not caplog.messages


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block": "model.blocks.{}"}, r"model\.layout\.block is 'model\.blocks\.\{\}'"),
        ({"down_proj": "model.layers.{}.w9"}, r"model\.layout\.down_proj.*w9"),
    ],
)
def test_paths_that_are_not_there(internlm2: Any, given: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        discover(internlm2, given)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mixtral", EXPERTS | {"num_local_experts": 4}),
        ("qwen2_moe", EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16}),
    ],
)
def test_a_mixture_of_experts(name: str, settings: dict[str, Any]) -> None:
    """By its configuration and, where that says nothing, by its structure."""
    model = build(name, 99, **settings)
    with pytest.raises(ModelError, match=rf"{name} is a mixture of experts \(num_.*experts=4\)"):
        EditableModel.wrap(model, None)
    with pytest.raises(ModelError, match=r"looks like a mixture of experts.*use a dense model"):
        discover(model, {})


def test_experts_in_a_list(internlm2: Any) -> None:
    block = internlm2.model.layers[0]
    block.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
    with pytest.raises(ModelError, match=r"looks like a mixture of experts \(experts in"):
        discover(internlm2, {})


def test_an_encoder() -> None:
    with pytest.raises(ModelError, match="'bert' is not a causal language model"):
        EditableModel.wrap(build("bert", 99, **SMALL), None)


def _gemma3n() -> Any:
    return transformers.Gemma3nForCausalLM(
        transformers.Gemma3nTextConfig(
            vocab_size=96, vocab_size_per_layer_input=96, hidden_size=32, intermediate_size=64,
            hidden_size_per_layer_input=8, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, laurel_rank=8, num_kv_shared_layers=0,
            layer_types=["full_attention"] * 2, activation_sparsity_pattern=[0.0] * 2,
        )
    )  # fmt: skip


def _t5() -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )


def _rwkv() -> Any:
    config = transformers.RwkvConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, intermediate_size=64, context_length=64
    )
    return transformers.RwkvForCausalLM(config)


def _wants_a_language() -> Any:
    config = transformers.XmodConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, is_decoder=True, languages=["en_XX", "de_DE"],
    )  # fmt: skip
    return transformers.XmodForCausalLM(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            _gemma3n,
            r"puts out a tensor of shape \[4, 2, 2, 32\] for \[2, 2\] tokens",
        ),
        (_t5, "t5 is an encoder with a decoder"),
        (_rwkv, "no linear layer in the blocks of 'rwkv' could be told"),
        (_wants_a_language, r"running it on token ids alone fails \(ValueError: .*language"),
    ],
    ids=["gemma3n", "t5", "rwkv", "xmod"],
)
def test_models_that_cannot_be_edited_are_refused_in_one_sentence(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        EditableModel.wrap(make().eval(), None)
    assert "\n" not in str(caught.value)


def test_blocks_without_an_mlp() -> None:
    model = unknown("llama")
    for block in model.model.layers:
        block.mlp = nn.Identity()
    with pytest.raises(ModelError, match=r"set model\.layout\.down_proj, e\.g\. model\.layers"):
        discover(model, {})


def test_a_model_without_blocks() -> None:
    model = unknown("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(ModelError, match=r"set model\.layout\.block"):
        discover(model, {})


def test_several_candidates_are_named(internlm2: Any) -> None:
    for block in internlm2.model.layers:
        block.mlp = nn.ModuleDict({"fc2": nn.Linear(64, 32)})
    with pytest.raises(
        ModelError, match=r"candidates are feed_forward\.w2, mlp\.fc2: set model\.layout\.down_proj"
    ):
        discover(internlm2, {})


def test_a_name_without_effect_is_refused() -> None:
    model = unknown("llama")
    for block in model.model.layers:
        block.mlp.forward = lambda x, mlp=block.mlp: 0 * mlp.down_proj(mlp.up_proj(x))
    with pytest.raises(ModelError, match=r"layers\.0 does not depend on model\.layers\.0\.mlp"):
        discover(model, {})


def test_blocks_that_run_twice_are_refused() -> None:
    """A weight that is used twice per pass has two keys per token."""
    model = unknown("llama")
    first, second = model.model.layers[:2]
    run = second.forward
    second.forward = lambda hidden, **kwargs: run(first(hidden, **kwargs), **kwargs)
    with pytest.raises(ModelError, match=r"runs once each, in order: set model\.layout\.block"):
        discover(model, {})
