"""Tiny models as EasyEdit wants them: in a folder, with second moments and hparams."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.easyedit_stats import HostMoments
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import REQUESTS, build_model, fast_tokenizer, random_sequences

REPOSITORY = Path(__file__).resolve().parents[2]
ORACLE_DIR = Path(os.environ.get("ORACLE_DIR", REPOSITORY.parent / "shared" / "oracle"))

# The host knows a model by parts of its path; its AlphaEdit asks for "gpt2-xl" in full.
FOLDERS = {"gpt2": "gpt2-xl-tiny", "llama": "llama-tiny"}
LAYERS = (1, 2, 3)
ROME_LAYER = 2
SAMPLES = 100_000
CONTEXTS = ("{}", "He said that. {}", "Today people. {}", "Because I think so. {}")

# Method → its module and its hparams class, below easyeditor.models.
METHODS = {
    "ROME": ("rome.rome_main", "ROMEHyperParams"),
    "R-ROME": ("r_rome.r_rome_main", "R_ROMEHyperParams"),
    "MEMIT": ("memit.memit_main", "MEMITHyperParams"),
    "MEMIT-FE": ("memit_FE.memit_FE_main", "MEMITFEHyperParams"),
    "EMMET": ("emmet.emmet_main", "EMMETHyperParams"),
    "PMET": ("pmet.pmet_main", "PMETHyperParams"),
    "AlphaEdit": ("alphaedit.AlphaEdit_main", "AlphaEditHyperParams"),
}
ONE_BY_ONE = ("ROME", "R-ROME")

MODULES = {
    "gpt2": {
        "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
        "layer_module_tmp": "transformer.h.{}",
        "mlp_module_tmp": "transformer.h.{}.mlp",
        "attn_module_tmp": "transformer.h.{}.attn",
        "ln_f_module": "transformer.ln_f",
        "lm_head_module": "transformer.wte",
    },
    "llama": {
        "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
        "layer_module_tmp": "model.layers.{}",
        "mlp_module_tmp": "model.layers.{}.mlp",
        "attn_module_tmp": "model.layers.{}.self_attn",
        "ln_f_module": "model.norm",
        "lm_head_module": "lm_head",
    },
}
SEARCH = {
    "fact_token": "subject_last",
    "v_num_grad_steps": 12,
    "v_lr": 0.1,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 0.75,
    "kl_factor": 0.0625,
}
EXTRA: dict[str, dict[str, Any]] = {
    "R-ROME": {"enable_random_prefix_keys": True},
    "EMMET": {"emmet_lambda": 0.1},
    "PMET": {"nll_loss_factor": 1},
    "AlphaEdit": {"L2": 1.0},
}


@dataclass(frozen=True)
class TinyHostModel:
    """A model on disk, and everything that the host needs to edit it.

    Attributes:
        family: ``gpt2`` or ``llama``.
        folder: model and tokenizer; its name says the family, as the host wants it.
        stats_dir: where the host finds the second moments.
        requests: prompts with a slot ``{}``, subjects and new targets.
        depth: how many layers it has.
        nullspace_threshold: the eigenvalue that parts this model's key space in two.
        expected: the oracle's numbers; empty where the model is a random one.
    """

    family: str
    folder: Path
    stats_dir: Path
    requests: list[dict[str, str]]
    depth: int
    nullspace_threshold: float
    expected: dict[str, torch.Tensor]

    def load(self) -> tuple[Any, Any]:
        """A fresh model and its tokenizer."""
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        return model.eval(), AutoTokenizer.from_pretrained(self.folder)

    def weight_names(self, layers: tuple[int, ...] = LAYERS) -> list[str]:
        """The names of the weights that are edited in ``layers``."""
        template = MODULES[self.family]["rewrite_module_tmp"]
        return [f"{template.format(layer)}.weight" for layer in layers]

    def settings(self, method: str, **changes: Any) -> dict[str, Any]:
        """What the host's YAML file of ``method`` would hold for this model."""
        modules = dict(MODULES[self.family])
        settings: dict[str, Any] = {
            "alg_name": method,
            "model_name": str(self.folder),
            "stats_dir": str(self.stats_dir),
            "device": "cpu",
            "layers": [ROME_LAYER] if method in ONE_BY_ONE else list(LAYERS),
            "v_loss_layer": self.depth - 1,
            "mom2_adjustment": True,
            "mom2_dataset": "wikipedia",
            "mom2_n_samples": SAMPLES,
            "mom2_dtype": "float32",
            **SEARCH,
            **EXTRA.get(method, {}),
        }
        if method in ONE_BY_ONE:
            settings["context_template_length_params"] = [[5, 10], [10, 10]]
        else:
            settings |= {"layer_selection": "all", "mom2_update_weight": 15, "batch_size": 1}
        if method == "PMET":  # its "mlp" and "attention" are the projections themselves
            projection = modules["rewrite_module_tmp"]
            out = {"gpt2": "c_proj", "llama": "o_proj"}[self.family]
            settings["rewrite_module_tmps"] = [projection]
            modules["mlp_module_tmp"] = projection
            modules["attn_module_tmp"] += f".{out}"
        if method == "AlphaEdit":
            settings["nullspace_threshold"] = self.nullspace_threshold
            settings["P_loc"] = "no-projector-yet.pt"
        return settings | modules | changes

    def hparams(self, method: str, **changes: Any) -> Any:
        """The host's hparams object of ``method`` for this model."""
        return hparams_class(method)(**self.settings(method, **changes))

    def write_hparams(self, method: str, folder: Path, **changes: Any) -> Path:
        """The same as a file for the host's ``from_hparams``."""
        path = folder / f"{method}.yaml"
        path.write_text(json.dumps(self.settings(method, **changes)))  # JSON is YAML
        return path


def skip_without_host() -> None:
    """Skip the test module that calls this where there is no host, with one line that says so."""
    if not os.environ.get("EASYEDIT_HOME") and importlib.util.find_spec("easyeditor") is None:
        pytest.skip(
            "no EasyEdit here: make test-host EASYEDIT_HOME=<its clone> runs these tests",
            allow_module_level=True,
        )


def main_module(method: str) -> ModuleType:
    """The host's module that holds ``method``'s apply and execute functions and its caches."""
    return importlib.import_module(f"easyeditor.models.{METHODS[method][0]}")


def algorithms() -> dict[str, Any]:
    """The host's dictionary of methods; ``easyeditor.util`` is shadowed, so not by attributes."""
    return importlib.import_module("easyeditor.util.alg_dict").ALG_DICT


def hparams_class(method: str) -> Any:
    """The host's hparams class of ``method``."""
    return getattr(main_module(method), METHODS[method][1])


def pin_contexts(method: str, contexts: tuple[str, ...] = CONTEXTS) -> None:
    """Give ``method`` these context templates instead of those it would sample."""
    flat = method in ONE_BY_ONE
    cache = list(contexts) if flat else [list(contexts)]
    vars(main_module(method))["CONTEXT_TEMPLATES_CACHE"] = cache


def prepare(family: str, place: Path) -> TinyHostModel:
    """Write model, tokenizer and second moments below ``place``: the oracle's, else random ones."""
    folder = place / FOLDERS[family]
    source = ORACLE_DIR / family
    expected: dict[str, Tensor] = {}
    if source.is_dir():
        case = json.loads((source / "case.json").read_text())
        expected = load_file(source / "expected.safetensors")
        threshold, requests = case["hparams"]["nullspace_threshold"], case["requests"]
        tokens = case["second_moment_tokens"]
        moments = {
            layer: SecondMoment(expected[f"second_moment.{layer}"] * tokens, tokens)
            for layer in LAYERS
        }
        model = AutoModelForCausalLM.from_pretrained(source / "model", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source / "model")
    else:
        tokenizer = fast_tokenizer()
        model = build_model(family, len(tokenizer), depth=LAYERS[-1] + 3)
        lm = EditableModel.wrap(model, tokenizer)
        moments = collect_second_moments(lm, random_sequences(len(tokenizer)), LAYERS)
        spectra = [torch.linalg.eigvalsh(moment.mean.double()) for moment in moments.values()]
        threshold = _between(torch.cat(spectra).sort().values)
        requests = [
            {"prompt": r.prompt, "subject": r.subject, "target_new": r.target_new} for r in REQUESTS
        ]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stats_dir = place / "stats"
    files = HostMoments(stats_dir, str(folder), samples=SAMPLES)
    for layer, moment in moments.items():
        module = MODULES[family]["rewrite_module_tmp"].format(layer)
        write_moment(files.path(module), moment, SAMPLES)
    depth = model.config.num_hidden_layers
    return TinyHostModel(family, folder, stats_dir, requests, depth, threshold, expected)


def _between(values: Tensor) -> float:
    """The middle of the widest gap among the middle half: rounding moves no eigenvalue over it."""
    quarter = len(values) // 4
    middle = values[quarter:-quarter]
    place = int((middle[1:] / middle[:-1]).argmax())
    return (middle[place] * middle[place + 1]).sqrt().item()


def write_moment(path: Path, moment: SecondMoment, samples: int) -> None:
    """Save a second moment as the host's ``layer_stats`` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "mom2.constructor": "easyeditor.util.runningstats.SecondMoment()",
        "mom2.count": moment.count,
        "mom2.mom2": moment.total.float().numpy(),
        "sample_size": samples,
    }
    np.savez(path, **content)
