"""``host=easyedit``: a configuration of ours, edited by EasyEdit's own update functions."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import RequestError, quoted
from alphaedit_plugin.config.build import load
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.config.statistics import host_files
from alphaedit_plugin.data.request import SLOT, FactToken, Request, split_slot
from alphaedit_plugin.easyedit.find_host import HostError, import_host
from alphaedit_plugin.easyedit.host import HostMethod, algorithms, methods_of, refuse_offloaded
from alphaedit_plugin.easyedit.patch_loop import replaced, restore
from alphaedit_plugin.easyedit.prune_rect import OF_METHOD, OF_TARGET
from alphaedit_plugin.easyedit.registration import register
from alphaedit_plugin.editing.encoding import EncodedRequest
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates
from alphaedit_plugin.nullspace.easyedit_stats import write_host_moment
from alphaedit_plugin.nullspace.projector_file import save_projectors


def hosted_editor(config: EditorConfig) -> NullSpaceEditor:
    """`NullSpaceEditor.from_config`, with batches that the host edits.

    PRUNE and RECT are ours there, too.

    Raises:
        AlphaEditError: there is no host, or something named does not fit.
    """
    methods = methods_of(import_host().__name__)
    by_base = {name.lower(): method for name, method in methods.items()}

    def check(loaded: EditableModel) -> None:
        refuse_offloaded(loaded.model.named_parameters())

    lm, recipe = load(config, check)
    method = by_base.get(config.base["name"])
    if method is None:
        return NullSpaceEditor(lm, recipe, config.batch_size)
    register()  # so that hparams take our keys
    folder = TemporaryDirectory()
    settings = _settings(method.name, lm, recipe, config, Path(folder.name))
    engine = HostEngine(method, method.hparams_class()(**settings), folder)
    return NullSpaceEditor(lm, recipe, config.batch_size, apply_batch=engine)


@dataclass
class HostEngine:
    """Edits a batch as `engine.apply_batch` does, with the host's functions.

    Attributes:
        method: the host's.
        hparams: what the host reads.
        folder: second moments and projectors, where the configuration names none.
        covariances: a cache of the host's MEMIT, which no other model shares.
        inverses: the same for its ROME.
    """

    method: HostMethod
    hparams: Any
    folder: TemporaryDirectory[str]
    covariances: dict[Any, Any] = field(default_factory=dict)
    inverses: dict[Any, Any] = field(default_factory=dict)

    def __call__(
        self, session: EditSession, recipe: Recipe, batch: Sequence[EncodedRequest]
    ) -> Entry:
        """Edit a batch; what the host wrote is then written by the session, which can undo it."""
        requests = [encoded.request for encoded in batch]
        rows = [host_row(request) for request in requests]
        groups = [[row] for row in rows] if recipe.method.one_by_one else [rows]
        lm = session.lm
        register()  # it may have been undone since
        weights = {layer: lm.weight(layer) for layer in recipe.layers}
        before = {layer: weight.clone() for layer, weight in weights.items()}
        try:
            # The host prints each step; our report is the output.
            with self._globals(recipe.contexts), redirect_stdout(sys.stderr):
                for group in groups:
                    apply = algorithms(self.method.package)[self.method.name]
                    apply(lm.model, lm.tokenizer, group, self.hparams)
            changes = {n: weight.float() - before[n].float() for n, weight in weights.items()}
        finally:
            restore(weights, before)
        with session.batch():
            for layer, change in changes.items():
                session.write(layer, Delta(change))
            return session.commit(requests, method=recipe.description())

    @contextmanager
    def _globals(self, contexts: ContextTemplates) -> Iterator[None]:
        """Give the host our context templates and caches."""
        rome, inverse, memit = (
            importlib.import_module(f"{self.method.package}.models.{name}")
            for name in ("rome.rome_main", "rome.compute_u", "memit.memit_main")
        )
        groups = [list(group) for group in contexts.groups]
        theirs = {"CONTEXT_TEMPLATES_CACHE": groups, "COV_CACHE": self.covariances}
        with (
            replaced(rome, {"CONTEXT_TEMPLATES_CACHE": list(contexts.flat)}),
            replaced(inverse, {"inv_mom2_cache": self.inverses}),
            replaced(memit, theirs),
        ):
            yield


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
        search: the host has its steps, its rate, and its three weights.
        fact_token: which token holds the fact.

    Raises:
        HostError: the model has no language-model head.
    """
    layout = lm.layout
    return {
        "alg_name": name,
        "device": str(lm.device),
        "layers": list(layers),
        "fact_token": fact_token.value,
        "v_loss_layer": lm.depth - 1,
        **{theirs: getattr(search, ours) for ours, theirs in OF_TARGET.items()},
        "rewrite_module_tmp": layout.down_proj,
        "layer_module_tmp": layout.block,
        "mlp_module_tmp": layout.down_proj.rpartition(".")[0],
        "attn_module_tmp": layout.block,
        "ln_f_module": layout.final_norm,
        "lm_head_module": _head(lm),
        **(
            {"context_template_length_params": []}
            if name == "ROME"
            else {"layer_selection": "all", "batch_size": 1}
        ),
    }


def _settings(
    name: str, lm: EditableModel, recipe: Recipe, config: EditorConfig, scratch: Path
) -> dict[str, Any]:
    """The host's hparams for this configuration."""
    method, moments = recipe.method, config.model.moments
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
    settings |= {OF_METHOD[key]: config.base[key] for key in OF_METHOD if key in config.base}
    if isinstance(method, AlphaEdit):
        path = scratch / "projector.safetensors"
        save_projectors(lm, dict(method.projectors), path)
        settings |= {
            "null_space_mode": config.projector.mode.value,
            "null_space_l2": config.projector.l2,
            "projector_path": str(path),
        }
    return settings


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
    """The name by which the head's weight is found; a tied one has the embedding's name."""
    head, embedding = lm.model.get_output_embeddings(), lm.model.get_input_embeddings()
    if head is None:
        raise HostError("the model has no language-model head")
    named = embedding if head.weight is embedding.weight else head
    return next(name for name, module in lm.model.named_modules() if module is named)
