"""Hparams of PRUNE, RECT, and any other base method that the host lacks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from alphaedit_plugin.common.errors import ConfigError, unknown_name
from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.easyedit.host import HOST_METHODS
from alphaedit_plugin.easyedit.hparams import NullSpaceFlag
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.base import METHODS

# The host's names of our settings.
OF_METHOD = {"moment_weight": "mom2_update_weight", "use_moment": "mom2_adjustment"}
OF_TARGET = {
    "steps": "v_num_grad_steps",
    "lr": "v_lr",
    "weight_decay": "v_weight_decay",
    "clamp_norm_factor": "clamp_norm_factor",
    "kl_factor": "kl_factor",
}
# Keys of the host's MEMIT files that we do not read: layouts come from ``config.model_type``.
UNREAD = (
    "v_loss_layer", "layer_selection", "mom2_adjustment", "rewrite_module_tmp", "layer_module_tmp",
    "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module",
)  # fmt: skip


@dataclass
class OurHyperParams(NullSpaceFlag):
    """Hparams like the host's MEMIT's, so that its YAML files serve with another ``alg_name``.

    What belongs to a method and to the target search is added by `hparams_class`.
    """

    ALGORITHM: ClassVar[str] = ""

    alg_name: str = ""
    model_name: Any = None
    stats_dir: str = "./data/stats"
    device: Any = 0
    layers: list[int] = field(default_factory=list)
    fact_token: str = FactToken.subject_last.value
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100_000
    mom2_dtype: str = "float32"
    batch_size: int = 1
    max_length: int = 40
    model_parallel: bool = False
    fp16: bool = False

    @classmethod
    def from_hparams(cls, hparams_name_or_path: str) -> Any:
        """Read a YAML file, as the host's hparams do.

        Raises:
            ConfigError: no such file, another ``alg_name``, or an unknown key.
        """
        path = Path(hparams_name_or_path)
        path = path if path.suffix in (".yaml", ".yml") else path.with_name(path.name + ".yaml")
        try:
            given: Any = OmegaConf.to_container(OmegaConf.load(path))
        except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"cannot read hparams {path}: {error}") from None
        if not isinstance(given, dict):
            raise ConfigError(f"{path} holds no hparams: give key: value lines")
        if given.get("alg_name") != cls.ALGORITHM:
            raise ConfigError(f"{path}: alg_name is {given.get('alg_name')!r}, not {cls.ALGORITHM}")
        keys = [f.name for f in fields(cls)]
        for key in map(str, given):
            if key not in keys:
                raise ConfigError(unknown_name(f"key of {cls.ALGORITHM} in {path.name}", key, keys))
        return cls(**{str(key): value for key, value in given.items()})

    def to_dict(self) -> dict[str, Any]:
        """As the host's hparams have it."""
        return asdict(self)


@cache
def hparams_class(name: str) -> type[OurHyperParams]:
    """The hparams class of a base method, by its name in ``base=``, made from its dataclass."""
    base: Any = METHODS.get(name)
    theirs = {f.name: OF_METHOD.get(f.name, f.name) for f in fields(base)} | OF_TARGET
    settings = [
        (theirs[f.name], f.type, field(default=f.default, default_factory=f.default_factory))
        for f in (*fields(TargetSettings), *fields(base))
        if f.name in theirs
    ]
    algorithm = name.upper()
    return make_dataclass(
        f"{algorithm}HyperParams",
        [*settings, *((key, Any, None) for key in UNREAD)],
        bases=(OurHyperParams,),
        namespace={"ALGORITHM": algorithm, "__module__": __name__},
        kw_only=True,
    )


PRUNEHyperParams = hparams_class("prune")
RECTHyperParams = hparams_class("rect")


def our_hparams_classes() -> dict[str, type[OurHyperParams]]:
    """The hparams classes of all base methods that the host lacks, by algorithm."""
    theirs = {method.name for method in HOST_METHODS}
    return {name.upper(): hparams_class(name) for name in METHODS if name.upper() not in theirs}
