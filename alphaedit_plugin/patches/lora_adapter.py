"""Edits as a LoRA adapter, for ``peft`` and for servers that read its format.

``W + scaling · B A`` (Hu et al. 2022, §4.1) with ``scaling = alpha / r``. Here ``B A`` is the
delta itself, so every layer's alpha is its rank and so is the adapter's as a whole: readers that
know one rank and one alpha only scale by 1 as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.common.delta import Delta, LowRank, factorise
from alphaedit_plugin.common.errors import AlphaEditError
from alphaedit_plugin.common.files import filled_folder
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def session_layers(session: EditSession, rank: int | None = None) -> dict[int, LowRank]:
    """What a session has added to each layer, in at most ``rank`` dimensions."""
    deltas: dict[int, list[Delta]] = {}
    for entry in session.journal:
        for write in entry.writes:
            deltas.setdefault(write.layer, []).append(write.delta)
    return {layer: factorise(Delta.joined(deltas[layer]), rank) for layer in sorted(deltas)}


def save_adapter(lm: EditableModel, layers: Mapping[int, LowRank], folder: Path) -> None:
    """Write an adapter for the unedited model.

    Args:
        lm: the model that was edited.
        layers: what was added to each; those without a change are left out.
        folder: new, or empty.

    Raises:
        AlphaEditError: nothing was added to any layer.
        ConfigError: the folder cannot be written.
    """
    changed = {
        lm.layout.down_proj.format(layer): delta for layer, delta in layers.items() if delta.rank
    }
    if not changed:
        raise AlphaEditError("the edits change nothing: there is nothing to export")
    tensors = {}
    for module, delta in changed.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = delta.down
        tensors[f"base_model.model.{module}.lora_B.weight"] = delta.up
    config = _config(lm, {module: delta.rank for module, delta in changed.items()})
    with filled_folder(folder) as unfinished:
        save_file(tensors, unfinished / WEIGHTS, {"format": "pt"})
        (unfinished / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _config(lm: EditableModel, ranks: Mapping[str, int]) -> dict[str, Any]:
    """What `peft.LoraConfig` saves, without the fields that keep their defaults."""
    highest = max(ranks.values())
    stored_transposed = any(isinstance(lm.model.get_submodule(name), Conv1D) for name in ranks)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": lm.model.name_or_path or None,
        "inference_mode": True,
        "target_modules": list(ranks),
        "r": highest,
        "lora_alpha": highest,
        "rank_pattern": dict(ranks),
        "alpha_pattern": dict(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": stored_transposed,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
