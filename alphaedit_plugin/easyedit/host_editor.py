"""From Hydra to the host: the same configuration, through EasyEdit's own update functions."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, RequestError, quoted
from alphaedit_plugin.config.build import load
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.config.statistics import host_files
from alphaedit_plugin.data.request import SLOT, FactToken, Request, split_slot
from alphaedit_plugin.easyedit.host import (
    METHODS,
    HostError,
    algorithms,
    import_host,
    methods_of,
    refuse_offloaded,
)
from alphaedit_plugin.easyedit.patch_loop import replaced, unharmed
from alphaedit_plugin.easyedit.prune_rect import NATIVE
from alphaedit_plugin.easyedit.registration import register
from alphaedit_plugin.editing.encoding import EncodedRequest
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.run import Step
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.editing.undo import Undone
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates
from alphaedit_plugin.nullspace.easyedit_stats import write_host_moment
from alphaedit_plugin.nullspace.projector_file import save_projectors

HOST_NAMES = {method.name.lower(): method.name for method in METHODS} | {
    kind.ALGORITHM.lower(): kind.ALGORITHM for kind in NATIVE
}


def host_row(request: Request) -> dict[str, str]:
    """A request as the host reads it, by ``str.format``.

    Braces are escaped after the slot only: the host counts the tokens before it unformatted, so an
    escape there moves the subject, and it formats the answer, whose tokens are its labels.

    Raises:
        RequestError: the host would misread braces of the text.
    """
    before, after = split_slot(request.prompt)
    if SLOT in after or set("{}") & set(before + request.target_new):
        raise RequestError(
            f"EasyEdit cannot edit {quoted(request.prompt)} → {quoted(request.target_new)}: it "
            "misreads braces before the subject, in the answer, and '{}' in the text: use "
            "host=native"
        )
    prompt = before + SLOT + after.replace("{", "{{").replace("}", "}}")
    return {"prompt": prompt, "subject": request.subject, "target_new": request.target_new}


class HostedSession(EditSession):
    """A session whose weights the host writes: it notes what was asked, and compares weights."""

    def accumulated(self, layer: int) -> Tensor:
        """``W − W0 (d_out, d_in)`` float32, as the model is now."""
        return self.lm.weight(layer).float() - self.pristine(layer).float()

    def undo(self, what: int | str = 1, *, force: bool = False) -> Undone:
        """Refused: the host keeps no journal.

        Raises:
            AlphaEditError: always.
        """
        raise AlphaEditError("host=easyedit keeps no journal to undo: use host=native")


@dataclass
class Scratch:
    """What the host reads from disk or keeps in module globals, for one editor.

    Attributes:
        folder: second moments and projectors, where the configuration names none.
        covariances: of the host's MEMIT.
        inverses: of the host's ROME.
    """

    folder: TemporaryDirectory[str] = field(default_factory=TemporaryDirectory)
    covariances: dict[Any, Any] = field(default_factory=dict)
    inverses: dict[Any, Any] = field(default_factory=dict)


class HostedEditor(NullSpaceEditor):
    """A `NullSpaceEditor` whose updates the host's functions compute and write."""

    def __init__(self, lm: EditableModel, recipe: Recipe, config: EditorConfig) -> None:
        self._package = import_host().__name__
        super().__init__(lm, recipe, config.batch_size)
        self.session = HostedSession(lm, recipe.layers)
        self._scratch = Scratch()
        self._name = _host_name(config)
        self._hparams = _hparams(lm, recipe, config, Path(self._scratch.folder.name))

    @classmethod
    def from_config(cls, config: EditorConfig, lm: EditableModel | None = None) -> HostedEditor:
        """Load what ``config`` names, once for both: the host gets it in its own form.

        Args:
            config: see `NullSpaceEditor.from_config`.
            lm: likewise.

        Raises:
            AlphaEditError: there is no host, or something named does not fit.
        """
        import_host()

        def check(found: EditableModel) -> None:
            refuse_offloaded(found.model.named_parameters())

        return cls(*load(config, check, lm), config)

    def _apply_batch(
        self, session: EditSession, recipe: Recipe, batch: Sequence[EncodedRequest]
    ) -> Entry:
        """Edit one batch through the host, all of it or nothing."""
        requests = [encoded.request for encoded in batch]
        register()
        rows = [host_row(request) for request in requests]
        groups = [[row] for row in rows] if self.recipe.method.one_by_one else [rows]
        weights = {
            self.lm.weight_name(layer): self.lm.parameter(layer) for layer in self.recipe.layers
        }
        with (
            unharmed(weights),
            _globals(self._package, self.recipe.contexts, self._scratch),
            redirect_stdout(sys.stderr),  # the host prints each step; our report is the output
        ):
            for group in groups:
                algorithms(self._package)[self._name](
                    self.lm.model, self.lm.tokenizer, group, self._hparams,
                    copy=False, return_orig_weights=False, keep_original_weight=True,
                )  # fmt: skip
        entry = Entry(tuple(requests), (), {})
        session.journal.append(entry)
        return entry

    def run(self, encoded: Sequence[EncodedRequest], **options: Any) -> Iterator[Step[Any]]:
        """As `NullSpaceEditor.run`; inside the host PRUNE restrains its weights after every batch.

        Raises:
            RequestError: braces that the host would misread; nothing was edited then.
        """
        for one in encoded:
            host_row(one.request)
        return super().run(encoded, **options | {"end": False})


def _host_name(config: EditorConfig) -> str:
    name = str(config.base["name"])
    if name not in HOST_NAMES:
        raise ConfigError(f"host=easyedit has no {name}: it has {', '.join(sorted(HOST_NAMES))}")
    return HOST_NAMES[name]


def _globals(package: str, contexts: ContextTemplates, scratch: Scratch) -> ExitStack:
    """Give the host our context templates, and caches that no other model shares."""
    stack = ExitStack()
    rome, inverse, memit = (
        importlib.import_module(f"{package}.models.{name}")
        for name in ("rome.rome_main", "rome.compute_u", "memit.memit_main")
    )
    groups = [list(group) for group in contexts.groups]
    stack.enter_context(replaced(rome, {"CONTEXT_TEMPLATES_CACHE": list(contexts.flat)}))
    stack.enter_context(replaced(inverse, {"inv_mom2_cache": scratch.inverses}))
    kept = {"CONTEXT_TEMPLATES_CACHE": groups, "COV_CACHE": scratch.covariances}
    stack.enter_context(replaced(memit, kept))
    return stack


def host_settings(
    lm: EditableModel,
    name: str,
    layers: Sequence[int],
    search: TargetSettings,
    fact_token: FactToken = FactToken.subject_last,
) -> dict[str, Any]:
    """What the host's hparams say of a model and of how targets are searched.

    Args:
        lm: the model.
        name: the host's name of the method.
        layers: to edit.
        search: of which the host has the steps, the rate, and the three weights.
        fact_token: which token holds the fact.

    Raises:
        HostError: the model has no language-model head.
    """
    layout = lm.layout
    single = name == "ROME"
    return {
        "alg_name": name,
        "device": str(lm.device),
        "layers": list(layers),
        "fact_token": fact_token.value,
        "v_num_grad_steps": search.steps,
        "v_lr": search.lr,
        "v_loss_layer": lm.depth - 1,
        "v_weight_decay": search.weight_decay,
        "clamp_norm_factor": search.clamp_norm_factor,
        "kl_factor": search.kl_factor,
        "rewrite_module_tmp": layout.down_proj,
        "layer_module_tmp": layout.block,
        "mlp_module_tmp": layout.down_proj.rpartition(".")[0],
        "attn_module_tmp": layout.block,
        "ln_f_module": layout.final_norm,
        "lm_head_module": _head(lm),
        **({"context_template_length_params": []} if single else {"layer_selection": "all"}),
    }


def _hparams(lm: EditableModel, recipe: Recipe, config: EditorConfig, scratch: Path) -> Any:
    """The host's hparams object for this configuration."""
    name, method, moments = _host_name(config), recipe.method, config.model.moments
    target, token = config.model.target, config.model.fact_token
    settings = host_settings(lm, name, recipe.layers, target, token) | {
        "model_name": config.model.path or "pocket",
        "stats_dir": str(_stats_dir(lm, recipe, config, scratch)),
        "mom2_adjustment": bool(config.base.get("use_moment", True)),
        "mom2_dataset": moments.stats_dataset,
        "mom2_n_samples": moments.stats_samples,
        "mom2_dtype": moments.stats_precision,
        "null_space": config.null_space,
    }
    if name != "ROME":
        settings["batch_size"] = config.batch_size
        settings["mom2_update_weight"] = config.base["moment_weight"]
    settings |= {key: config.base[key] for key in ("alpha", "keep_percent") if key in config.base}
    if isinstance(method, AlphaEdit):
        path = scratch / "projector.safetensors"
        save_projectors(lm, dict(method.projectors), path)
        settings |= {
            "null_space_mode": config.projector.mode.value,
            "null_space_l2": config.projector.l2,
            "projector_path": str(path),
        }
    register()
    kinds: dict[str, Any] = {kind.ALGORITHM: kind for kind in NATIVE}
    methods = methods_of(import_host().__name__)
    kinds |= {method.name: method.hparams_class() for method in methods if method.name == name}
    return kinds[name](**settings)


def _stats_dir(lm: EditableModel, recipe: Recipe, config: EditorConfig, scratch: Path) -> Path:
    """The user's folder of second moments where it has all, or ours with those of the recipe."""
    if config.model.moments.stats_dir is not None:
        folder = Path(config.model.moments.stats_dir).expanduser()
        if all(path.is_file() for path in host_files(lm, config.model, folder).values()):
            return folder
    files = host_files(lm, config.model, scratch)
    for layer, moment in recipe.moments.items():
        write_host_moment(moment, files[layer], config.model.moments.stats_samples)
    return scratch


def _head(lm: EditableModel) -> str:
    """The name by which the head's weight is found; a tied one goes by the embedding's name."""
    modules = {id(module): name for name, module in lm.model.named_modules()}
    head, embedding = lm.model.get_output_embeddings(), lm.model.get_input_embeddings()
    if head is None:
        raise HostError("the model has no language-model head")
    tied = head.weight is embedding.weight
    return modules[id(embedding if tied else head)]
