"""PRUNE and RECT as algorithms of the host's: our engine behind its calling convention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from alphaedit_plugin.common.errors import ConfigError, unknown_name
from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.easyedit.host import import_host, methods_of, second_moment_of
from alphaedit_plugin.easyedit.hparams import NullSpaceFlag
from alphaedit_plugin.easyedit.key_history import KeyHistory, Marks, marks, same_marks
from alphaedit_plugin.easyedit.patch_loop import unharmed
from alphaedit_plugin.editing.encoding import encode
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.run import run
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rect import Rect
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates
from alphaedit_plugin.nullspace.cut import Mode
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment

ProjectorsOf = Callable[[list[str]], dict[str, Projector]]


@dataclass
class NativeHyperParams(NullSpaceFlag):
    """Hparams like the host's MEMIT's, so that its YAML files serve with another ``alg_name``.

    The module templates are taken but not needed: layouts come from ``config.model_type``.
    """

    ALGORITHM: ClassVar[str] = ""

    alg_name: str = ""
    model_name: Any = None
    stats_dir: str = "./data/stats"
    device: Any = 0
    layers: list[int] = field(default_factory=list)
    fact_token: str = "subject_last"
    v_num_grad_steps: int = 25
    v_lr: float = 0.5
    v_loss_layer: int | None = None
    v_weight_decay: float = 0.5
    clamp_norm_factor: float = 0.75
    kl_factor: float = 0.0625
    layer_selection: str = "all"
    mom2_adjustment: bool = True
    mom2_update_weight: float = 15_000.0
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100_000
    mom2_dtype: str = "float32"
    rewrite_module_tmp: str = ""
    layer_module_tmp: str = ""
    mlp_module_tmp: str = ""
    attn_module_tmp: str = ""
    ln_f_module: str = ""
    lm_head_module: str = ""
    batch_size: int = 1
    max_length: int = 40
    model_parallel: bool = False
    fp16: bool = False

    @classmethod
    def from_hparams(cls, hparams_name_or_path: str) -> NativeHyperParams:
        """Read a YAML file, as the host's hparams do.

        Raises:
            ConfigError: no such file, another ``alg_name``, or an unknown key.
        """
        path = Path(hparams_name_or_path)
        path = path if path.suffix in (".yaml", ".yml") else path.with_name(path.name + ".yaml")
        try:
            given = OmegaConf.to_container(OmegaConf.load(path))
        except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"cannot read hparams {path}: {error}") from None
        if not isinstance(given, dict):
            raise ConfigError(f"{path} holds no hparams: give key: value lines")
        if given.get("alg_name") != cls.ALGORITHM:
            raise ConfigError(f"{path}: alg_name is {given.get('alg_name')!r}, not {cls.ALGORITHM}")
        known = [f.name for f in fields(cls)]
        for key in map(str, given):
            if key not in known:
                raise ConfigError(
                    unknown_name(f"key of {cls.ALGORITHM} in {path.name}", key, known)
                )
        return cls(**{str(key): value for key, value in given.items()})

    def to_dict(self) -> dict[str, Any]:
        """As the host's hparams have it."""
        return asdict(self)

    def method(self) -> BaseMethod:
        """The base method with these settings."""
        raise NotImplementedError


@dataclass
class PRUNEHyperParams(NativeHyperParams):
    """PRUNE; see `methods.Prune`."""

    ALGORITHM: ClassVar[str] = "PRUNE"

    alpha: float = 1.2

    def method(self) -> BaseMethod:
        """The base method with these settings."""
        return Prune(self.mom2_update_weight, alpha=self.alpha)


@dataclass
class RECTHyperParams(NativeHyperParams):
    """RECT; see `methods.Rect`."""

    ALGORITHM: ClassVar[str] = "RECT"

    keep_percent: float = 40.0

    def method(self) -> BaseMethod:
        """The base method with these settings."""
        return Rect(self.mom2_update_weight, keep_percent=self.keep_percent)


NATIVE: tuple[type[NativeHyperParams], ...] = (PRUNEHyperParams, RECTHyperParams)


@dataclass
class NativeRun:
    """A run of one editor: its session, and what the weights looked like after each edit.

    The host restores weights behind our back, so a run continues from whichever of its states the
    model is in. Where it is in none, others have written to the weights: a new run starts from
    them, with the keys of those edits that still stand.
    """

    hparams: NativeHyperParams
    settings: dict[str, Any]
    session: EditSession
    recipe: Recipe
    states: list[tuple[Marks, int]]

    @classmethod
    def begin(
        cls,
        model: Any,
        tokenizer: Any,
        hparams: NativeHyperParams,
        projectors_of: ProjectorsOf,
        former: NativeRun | None = None,
    ) -> NativeRun:
        """Start from the weights as they are now, with what stands of a ``former`` run."""
        lm = EditableModel.wrap(model, tokenizer)
        session = EditSession(lm, hparams.layers)
        if former is not None and former.session.layers == session.layers:
            session.journal.append(Entry((), (), standing_keys(former.session)))
        recipe = _recipe(lm, hparams, projectors_of)
        states = [(marks(weights_of(session)), len(session.journal))]
        return cls(hparams, settings_of(hparams), session, recipe, states)

    def resume(self, projectors_of: ProjectorsOf) -> bool:
        """Go back to the state the weights are in, with the hparams as they are now.

        Returns:
            ``False`` where the weights are in none of our states, or other layers are asked for.
        """
        if tuple(self.hparams.layers) != self.session.layers:
            return False
        now = marks(weights_of(self.session))
        known = [count for state, count in self.states if same_marks(state, now)]
        if not known:
            return False
        while self.states[-1][1] != known[-1]:
            self.states.pop()
        # The host has put those weights back already, behind the session's back.
        self.session.undo(len(self.session.journal) - known[-1], force=True)
        if self.settings != settings_of(self.hparams):
            self.settings = settings_of(self.hparams)
            self.recipe = _recipe(self.session.lm, self.hparams, projectors_of)
        return True

    def edit(self, requests: Sequence[Request]) -> None:
        """Apply a batch; PRUNE's restraint is taken off before it and put on after it."""
        session, recipe = self.session, self.recipe
        encoded = encode(session.lm, recipe, requests)
        for _ in run(session, recipe, encoded, len(encoded)):
            pass
        self.states.append((marks(weights_of(session)), len(session.journal)))


def settings_of(hparams: NativeHyperParams) -> dict[str, Any]:
    """The hparams as they are now: the object is the user's, and may be changed between edits."""
    return vars(hparams) | {"layers": tuple(hparams.layers)}


def standing_keys(session: EditSession) -> dict[int, Tensor]:
    """Per layer the keys ``(d_in, n)`` of a session's edits that the model still holds."""
    found = {}
    for layer in session.layers:
        history = KeyHistory()
        weight = session.pristine(layer).float()
        for entry in session.journal:
            before = weight
            for write in entry.writes:
                if write.layer == layer:
                    weight = weight + write.delta.to(weight.device).dense
            if layer in entry.past_keys:
                history.remember(before, weight, entry.past_keys[layer])
        history.rewind(session.lm.weight(layer))
        found[layer] = history.past().joined(weight.T)
    return found


def _recipe(lm: EditableModel, hparams: NativeHyperParams, of: ProjectorsOf) -> Recipe:
    names = {layer: lm.weight_name(layer) for layer in hparams.layers}
    flag, method = NullSpaceFlag.of(hparams), hparams.method()
    if flag.null_space:
        found = of(list(names.values()))
        projectors = {layer: found[name] for layer, name in names.items()}
        mode = Mode.solve if flag.solves(hparams.ALGORITHM, True) else Mode.post
        method = AlphaEdit(method, projectors, mode, flag.null_space_l2)
    return Recipe(
        method, tuple(hparams.layers), _host_contexts(lm.model, lm.tokenizer),
        _moments(lm, hparams) if method.needs_moment else {},
        FactToken(hparams.fact_token), _target_settings(hparams),
    )  # fmt: skip


def weights_of(session: EditSession) -> dict[str, Tensor]:
    """The session's parameters by name, as the model stores them."""
    lm = session.lm
    return {lm.weight_name(layer): lm.stored(layer) for layer in session.layers}


def apply_native(
    runs: list[NativeRun],
    projectors_of: ProjectorsOf,
    call: tuple[Any, Any, Sequence[Mapping[str, Any]], NativeHyperParams],
) -> tuple[Any, dict[str, Tensor]]:
    """What the host calls: edit, and hand back what restores the weights.

    Args:
        runs: of this model so far; one is added where none fits.
        projectors_of: gives projectors by weight name.
        call: model, tokenizer, requests and hparams.
    """
    model, tokenizer, given, hparams = call
    requests = [Request.parse(r["prompt"], r.get("subject"), r["target_new"]) for r in given]
    run = next((run for run in runs if run.hparams is hparams), None)
    if run is None or not run.resume(projectors_of):
        former, run = run, NativeRun.begin(model, tokenizer, hparams, projectors_of, run)
        runs[:] = [*(other for other in runs if other is not former), run]
    weights = weights_of(run.session)
    copies = {name: weight.detach().clone() for name, weight in weights.items()}
    with unharmed(weights):
        run.edit(requests)
    return model, copies


def _moments(lm: EditableModel, hparams: Any) -> dict[int, SecondMoment]:
    modules = {layer: lm.layout.down_proj.format(layer) for layer in hparams.layers}
    return {
        layer: SecondMoment(second_moment_of(lm.model, lm.tokenizer, name, hparams).double(), 1)
        for layer, name in modules.items()
    }


def _host_contexts(model: Any, tokenizer: Any) -> ContextTemplates:
    """The context templates that the host's MEMIT uses, sampled by it once a process."""
    (memit,) = (m for m in methods_of(import_host().__name__) if m.name == "MEMIT")
    found = memit.load().get_context_templates(model, tokenizer)
    return ContextTemplates(tuple(tuple(group) for group in found))


def _target_settings(hparams: NativeHyperParams) -> TargetSettings:
    return TargetSettings(
        steps=hparams.v_num_grad_steps,
        lr=hparams.v_lr,
        weight_decay=hparams.v_weight_decay,
        kl_factor=hparams.kl_factor,
        clamp_norm_factor=hparams.clamp_norm_factor,
    )
