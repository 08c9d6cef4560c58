"""PRUNE, RECT, and any other base method that the host lacks: our engine as its algorithms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from transformers.pytorch_utils import Conv1D
from yaml import YAMLError

from alphaedit_plugin.common.errors import ConfigError, unknown_name
from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.easyedit.find_host import import_host
from alphaedit_plugin.easyedit.host import HOST_METHODS, HostCall, methods_of
from alphaedit_plugin.easyedit.hparams import NullSpaceFlag
from alphaedit_plugin.easyedit.model_state import ModelState
from alphaedit_plugin.easyedit.patch_loop import unharmed
from alphaedit_plugin.editing.encoding import encode
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.run import Step, run
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import METHODS, BaseMethod
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates
from alphaedit_plugin.nullspace.cut import Mode

# The host's names of our settings.
OF_METHOD = {"moment_weight": "mom2_update_weight"}
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
    BASE: ClassVar[Any] = None

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
        namespace={"ALGORITHM": algorithm, "BASE": base, "__module__": __name__},
        kw_only=True,
    )


PRUNEHyperParams = hparams_class("prune")
RECTHyperParams = hparams_class("rect")


def our_hparams_classes() -> dict[str, type[OurHyperParams]]:
    """The hparams classes of all base methods that the host lacks, by algorithm."""
    theirs = {method.name for method in HOST_METHODS}
    return {name.upper(): hparams_class(name) for name in METHODS if name.upper() not in theirs}


def apply_ours(state: ModelState, call: HostCall) -> tuple[Any, dict[str, Tensor]]:
    """Edit one batch with our engine; PRUNE's restraint is undone before it and redone after it.

    Returns:
        What the host expects: the model, and copies of the weights that restore it.
    """
    if call.options.get("copy"):
        raise ConfigError(f"{call.hparams.alg_name} edits the model it is given: remove copy=")
    requests = [
        Request.parse(r["prompt"], r.get("subject"), r["target_new"]) for r in call.requests
    ]
    lm = EditableModel.wrap(call.model, call.tokenizer)
    layers = tuple(call.hparams.layers)
    recipe = _recipe(state, call, lm, layers)
    with unharmed({lm.weight_name(layer): lm.stored(layer) for layer in layers}) as copies:
        encoded = encode(lm, recipe, requests)
        going = state.run_of(call.hparams.ALGORITHM, lm, layers, requests)
        steps: Iterator[Step[Any]] = run(going.session, recipe, encoded, len(encoded))
        entries = [step.entry for step in steps]
        going.note_state()
    for entry in filter(None, entries):
        for layer, keys in entry.past_keys.items():
            copy, history = copies[lm.weight_name(layer)], state.histories[lm.weight_name(layer)]
            before = copy.T if isinstance(lm.down_proj(layer), Conv1D) else copy
            history.rewind(before)
            history.remember(before, lm.weight(layer), keys, entry.requests)
    return call.model, copies


def _recipe(state: ModelState, call: HostCall, lm: EditableModel, layers: Sequence[int]) -> Recipe:
    """The recipe that the hparams describe: they are the user's, and may change between edits."""
    hparams, names = call.hparams, {layer: lm.weight_name(layer) for layer in layers}
    renamed = {f.name: OF_METHOD.get(f.name, f.name) for f in fields(hparams.BASE)}
    method: BaseMethod = hparams.BASE(**{ours: getattr(hparams, k) for ours, k in renamed.items()})
    flag, moments = NullSpaceFlag.of(hparams), {}
    if flag.null_space:
        by_name = state.projectors_of(flag, call, list(names.values()))
        projectors = {layer: by_name[name] for layer, name in names.items()}
        solves = flag.solves(hparams.ALGORITHM, method.least_squares)
        mode = Mode.solve if solves else Mode.post
        method = AlphaEdit(method, projectors, mode, flag.null_space_l2)
    if method.needs_moment:
        read = state.moments_of(call, list(names.values()))
        moments = {layer: read[name] for layer, name in names.items()}
    # The host's MEMIT samples its context templates once a process.
    memit = methods_of(import_host().__name__)["MEMIT"].load()
    contexts = memit.get_context_templates(call.model, call.tokenizer)
    return Recipe(
        method,
        tuple(layers),
        ContextTemplates(tuple(tuple(group) for group in contexts)),
        moments,
        FactToken(hparams.fact_token),
        TargetSettings(**{ours: getattr(hparams, key) for ours, key in OF_TARGET.items()}),
    )
