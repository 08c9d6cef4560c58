from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.families import LAYOUTS, Layout
from alphaedit_plugin.models.hooks import hidden_of, hooked, inference, with_hidden
from tests.tiny import CONTEXT, DEPTH, build_model, hook_count, relative


def test_the_weight_is_oriented_whatever_the_module(lm: EditableModel) -> None:
    module, weight = lm.down_proj(2), lm.weight(2)
    keys = torch.randn(7, weight.shape[1])
    bias = 0 if module.bias is None else module.bias
    assert relative(keys @ weight.T + bias, module(keys)) < 1e-5
    assert weight.shape[0] < weight.shape[1]


def test_the_weight_is_a_view_of_the_parameter(lm: EditableModel) -> None:
    lm.weight(1).zero_()
    assert not lm.parameter(1).any()


def test_a_square_weight_is_oriented_by_its_module() -> None:
    """Shapes cannot tell: only GPT-2's ``Conv1D`` is transposed."""
    model = build_model("gpt2", 20)
    lm = EditableModel.wrap(model, None)
    square = type(model.transformer.h[0].mlp.c_proj)(32, 32)
    with torch.no_grad():
        square.weight.copy_(torch.randn(32, 32))
    model.transformer.h[0].mlp.c_proj = square
    assert torch.equal(lm.weight(0), square.weight.T)


def test_names_are_those_of_named_parameters(lm: EditableModel) -> None:
    parameters = dict(lm.model.named_parameters())
    for layer in range(DEPTH):
        assert parameters[lm.weight_name(layer)] is lm.parameter(layer)


def test_depth_and_device(lm: EditableModel) -> None:
    assert lm.depth == DEPTH
    assert lm.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "no layer"),
        ([1, 2, 1], "twice"),
        ([0, 4], "layer 4 is out of range.*4 blocks, 0 to 3"),
        ([-1], "layer -1 is out of range"),
    ],
)
def test_layers_that_cannot_be_edited(gpt2: EditableModel, layers: list[int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        gpt2.check_layers(layers)


def test_a_plain_module_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Linear has no config\.model_type"):
        EditableModel.wrap(nn.Linear(2, 2), None)


def test_a_quantised_layer_is_refused(gpt2: EditableModel) -> None:
    gpt2.model.transformer.h[1].mlp.c_proj = nn.Bilinear(2, 2, 2)
    with pytest.raises(ModelError, match=r"transformer\.h\.1\.mlp\.c_proj is a Bilinear"):
        gpt2.weight(1)


def test_the_family_is_not_guessed_from_the_name(gpt2: EditableModel) -> None:
    gpt2.model.config._name_or_path = "models/llama-like-gptj"
    assert EditableModel.wrap(gpt2.model, None).layout == LAYOUTS.get("gpt2")


def test_a_new_family_is_one_registration(gpt2: EditableModel) -> None:
    gpt2.model.config.model_type = "mine"
    mine = Layout("transformer.h.{}", "transformer.h.{}.mlp.c_proj", "transformer.ln_f")
    LAYOUTS.register("mine", mine)
    try:
        assert EditableModel.wrap(gpt2.model, None).weight(0).shape[0] == 32
    finally:
        LAYOUTS.unregister("mine")


def test_hooks_are_gone_on_exit_and_on_error(gpt2: EditableModel) -> None:
    def register() -> Any:
        return gpt2.block(0).register_forward_hook(lambda *_: None)

    with hooked(register, register):
        assert hook_count(gpt2.model) == 2
    assert hook_count(gpt2.model) == 0
    with pytest.raises(KeyError), hooked(register, register):
        raise KeyError
    with pytest.raises(ZeroDivisionError), hooked(register, lambda: 1 / 0):
        pass
    assert hook_count(gpt2.model) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_inference_restores_every_flag(lm: EditableModel, fails: bool) -> None:
    lm.model.train()
    lm.block(2).eval()
    lm.parameter(0).requires_grad_(False)
    flags = [p.requires_grad for p in lm.model.parameters()]
    modes = [m.training for m in lm.model.modules()]
    try:
        with inference(lm.model):
            assert not any(p.requires_grad for p in lm.model.parameters())
            assert not any(m.training for m in lm.model.modules())
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert [p.requires_grad for p in lm.model.parameters()] == flags
    assert [m.training for m in lm.model.modules()] == modes


def test_hidden_states_in_a_tensor_or_a_tuple() -> None:
    one, other = torch.zeros(2), torch.ones(2)
    assert hidden_of(one) is one
    assert hidden_of((one, "cache")) is one
    assert with_hidden(one, other) is other
    assert with_hidden((one, "cache"), other) == (other, "cache")


def test_a_model_made_in_inference_mode_is_refused(tokenizer: Any) -> None:
    with torch.inference_mode():
        model = build_model("gpt2", len(tokenizer))
    with pytest.raises(ModelError, match="load it outside"):
        EditableModel.wrap(model, tokenizer)


def test_context_length(lm: EditableModel) -> None:
    assert lm.context_length == CONTEXT
    unlimited = EditableModel(SimpleNamespace(config=SimpleNamespace()), None, lm.layout)
    assert unlimited.context_length is None
