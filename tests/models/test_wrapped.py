from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import build_model


def adapted(*modules: str) -> Any:
    peft = pytest.importorskip("peft")
    model = build_model("llama", 20)
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=list(modules)))


def test_a_peft_model_is_refused_and_the_suggested_ways_work() -> None:
    model = adapted("q_proj")
    with pytest.raises(
        ModelError, match=r"merge_and_unload\(\), or wrap model\.get_base_model\(\)"
    ):
        EditableModel.wrap(model, None)
    EditableModel.wrap(model.get_base_model(), None).check_layers([0, 1])
    EditableModel.wrap(model.merge_and_unload(), None).check_layers([0, 1])


def test_an_adapter_on_an_edited_layer_is_refused() -> None:
    lm = EditableModel.wrap(adapted("down_proj").get_base_model(), None)
    with pytest.raises(ModelError, match=r"a peft adapter replaces model\.layers\.1\.mlp"):
        lm.check_layers([1])


def test_a_compiled_model_is_unwrapped_and_sees_its_edits() -> None:
    model, ids = build_model("llama", 20), torch.tensor([[1, 2, 3]])
    compiled = torch.compile(model, backend="eager")
    before = compiled(input_ids=ids).logits
    lm = EditableModel.wrap(compiled, None)
    assert lm.model is model
    lm.weight(1).mul_(3)
    after = compiled(input_ids=ids).logits
    assert torch.equal(after, model(input_ids=ids).logits)
    assert not torch.equal(after, before)


def test_a_model_of_compiled_parts_is_refused() -> None:
    model = build_model("llama", 20)
    model.model.layers[2] = torch.compile(model.model.layers[2], backend="eager")
    with pytest.raises(ModelError, match=r"model\.layers\.2 was compiled"):
        EditableModel.wrap(model, None)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match=r"LlamaModel has no model\.layers\.0.*whole causal LM"):
        EditableModel.wrap(build_model("llama", 20).model, None)


@pytest.mark.parametrize(
    "make", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.weight_norm]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_parametrised_weight_is_refused(make: Any) -> None:
    model = build_model("llama", 20)
    make(model.model.layers[1].mlp.down_proj)
    lm = EditableModel.wrap(model, None)
    lm.check_layers([0])
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj computes its weight"):
        lm.check_layers([1])


def test_a_missing_tokenizer_is_reported_on_use() -> None:
    lm = EditableModel.wrap(build_model("llama", 20), None)
    for use in (lambda t: tokenise(t, "text"), lambda t: t.get_vocab()):
        with pytest.raises(ModelError, match=r"wrap\(model, tokenizer\)"):
            use(lm.tokenizer)
    assert type(copy.deepcopy(lm.tokenizer)) is type(lm.tokenizer)
    assert type(pickle.loads(pickle.dumps(lm.tokenizer))) is type(lm.tokenizer)
