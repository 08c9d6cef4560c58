from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml


@dataclass
class HyperParams:
    """What all methods here ask for; a key that is no field is refused, as in the host."""

    alg_name: str
    model_name: Any
    device: Any
    layers: list[int]
    rewrite_module_tmp: str
    layer_module_tmp: str
    stats_dir: str
    mom2_dataset: str
    mom2_n_samples: int
    mom2_dtype: str

    @classmethod
    def from_hparams(cls, path: str) -> Any:
        with open(path if path.endswith(".yaml") else path + ".yaml") as file:
            config = yaml.safe_load(file)
        return cls(**{key: _number(value) for key, value in config.items()})


def _number(value: Any) -> Any:
    """YAML reads ``2e-2`` as a string."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
