"""Adapters, read by the real `peft`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from alphaedit_plugin.common.delta import Delta, LowRank, factorise
from alphaedit_plugin.common.errors import AlphaEditError
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.lora_adapter import save_adapter, session_layers
from tests.tiny import REQUESTS, relative

LAYERS = (0, 1, 3)


def edited(lm: EditableModel) -> EditSession:
    """Two batches, of another rank in each layer, large enough to be seen in the logits."""
    session = EditSession(lm, LAYERS)
    for size in (2, 3):
        with session.batch():
            for layer in LAYERS:
                d_out, d_in = lm.weight(layer).shape
                scale = lm.weight(layer).float().norm() / (d_out * d_in) ** 0.5
                left = scale * torch.randn(d_out, size + layer)
                session.write(layer, Delta(left, torch.randn(d_in, size + layer)))
            session.commit(REQUESTS[:size])
    return session


def logits(model: Any, tokenizer: Any) -> Tensor:
    with torch.no_grad():
        rows = [tokenizer(r.filled, return_tensors="pt")["input_ids"] for r in REQUESTS]
        return torch.cat([model(ids).logits[0] for ids in rows]).float()


def adapted(session: EditSession, folder: Path, rank: int | None = None) -> Any:
    """The unedited model with the session's adapter, as `peft` puts it on."""
    save_adapter(session.lm, session_layers(session, rank), folder)
    base = copy.deepcopy(session.lm.model)
    plain = EditableModel(base, session.lm.tokenizer, session.lm.layout)
    for layer in LAYERS:
        plain.weight(layer).copy_(session.pristine(layer))
    return PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=str
)
def test_the_adapted_model_is_the_edited_one(
    lm: EditableModel, tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    lm.model.to(dtype)
    before = logits(lm.model, lm.tokenizer)
    session = edited(lm)
    after = logits(lm.model, lm.tokenizer)
    model = adapted(session, tmp_path / "adapter")
    assert relative(logits(model, lm.tokenizer), after) < tolerance < relative(before, after) / 10
    merged = model.merge_and_unload()
    assert relative(logits(merged, lm.tokenizer), after) < tolerance
    with torch.no_grad():
        for layer in LAYERS:
            weight = merged.get_parameter(lm.weight_name(layer))
            assert relative(weight, lm.parameter(layer)) < tolerance


def test_an_adapter_can_be_taken_off_again(gpt2: EditableModel, tmp_path: Path) -> None:
    """What a server does when it swaps adapters: the base weights are never touched."""
    before = logits(gpt2.model, gpt2.tokenizer)
    model = adapted(edited(gpt2), tmp_path / "adapter")
    with model.disable_adapter():
        assert torch.equal(logits(model, gpt2.tokenizer), before)
    assert not torch.equal(logits(model, gpt2.tokenizer), before)


def test_each_layer_has_the_rank_of_its_delta(lm: EditableModel, tmp_path: Path) -> None:
    model = adapted(edited(lm), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    modules = {layer: lm.layout.down_proj.format(layer) for layer in LAYERS}
    ranks = {modules[layer]: 5 + 2 * layer for layer in LAYERS}
    assert config["rank_pattern"] == config["alpha_pattern"] == ranks
    assert config["target_modules"] == list(ranks)
    assert config["r"] == config["lora_alpha"] == max(ranks.values())
    for name, rank in ranks.items():
        lora = model.base_model.model.get_submodule(name)
        assert lora.r["default"] == rank
        assert lora.scaling["default"] == 1


def test_a_truncated_adapter_is_the_best_of_its_rank(gpt2: EditableModel, tmp_path: Path) -> None:
    session = edited(gpt2)
    merged = adapted(session, tmp_path / "adapter", rank=2).merge_and_unload()
    twin = EditableModel(merged, gpt2.tokenizer, gpt2.layout)
    for layer, delta in session_layers(session, 2).items():
        added = twin.weight(layer) - session.pristine(layer)
        assert relative(added, session.accumulated(layer)) == pytest.approx(delta.error, rel=1e-2)
        assert 0.1 < delta.error < 1


def test_layers_without_a_change_are_left_out(gpt2: EditableModel, tmp_path: Path) -> None:
    layers = session_layers(edited(gpt2))
    nothing = factorise(Delta(torch.zeros_like(gpt2.weight(0))))
    save_adapter(gpt2, layers | {0: nothing}, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"transformer.h.{n}.mlp.c_proj" for n in (1, 3)]


@pytest.mark.parametrize("layers", [{}, {1: factorise(Delta(torch.zeros(32, 128)))}])
def test_no_change_at_all_is_refused(
    gpt2: EditableModel, tmp_path: Path, layers: dict[int, LowRank]
) -> None:
    with pytest.raises(AlphaEditError, match="nothing to export"):
        save_adapter(gpt2, layers, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
