"""Our engine behind the host's entries: PRUNE and RECT, and on request its own ROME and MEMIT.

The requests of a call are encoded once and searched together, where the host searches one after
another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.easyedit.find_host import HostError, import_host
from alphaedit_plugin.easyedit.host import HostCall, HostMethod, methods_of
from alphaedit_plugin.easyedit.hparams import NullSpaceFlag
from alphaedit_plugin.easyedit.model_state import ModelState
from alphaedit_plugin.easyedit.patch_loop import unharmed
from alphaedit_plugin.easyedit.prune_rect import OF_METHOD, OF_TARGET
from alphaedit_plugin.editing.encoding import encode
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.run import Step, run
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import METHODS, BaseMethod
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates
from alphaedit_plugin.nullspace.cut import Mode


@dataclass(frozen=True)
class OurAlgorithm:
    """A base method of ours under the name that the host gives it.

    Attributes:
        name: in ``hparams.alg_name``.
        theirs: the host's method of this name, if it has one.
    """

    name: str
    theirs: HostMethod | None = None

    @property
    def base(self) -> type[BaseMethod]:
        """The base method."""
        return METHODS.get(self.name.lower())

    def apply(
        self, state: ModelState, flag: NullSpaceFlag, call: HostCall
    ) -> tuple[Any, dict[str, Tensor]]:
        """Edit one batch; PRUNE's restraint is undone before it and redone after it.

        Returns:
            What the host expects: the model, and copies of the weights that restore it.

        Raises:
            ConfigError: an option or setting that our engine does not have.
            HostError: the hparams name other weights than those that our engine edits.
        """
        if call.options.get("copy"):
            raise ConfigError(f"{self.name} edits the model it is given: remove copy=")
        requests = [
            Request.parse(r["prompt"], r.get("subject"), r["target_new"]) for r in call.requests
        ]
        lm = EditableModel.wrap(call.model, call.tokenizer)
        layers = tuple(sorted(call.hparams.layers) if self.one_by_one else call.hparams.layers)
        self._check(call, lm, layers)
        recipe = self._recipe(state, flag, call, lm, layers)
        with unharmed({lm.weight_name(layer): lm.stored(layer) for layer in layers}) as copies:
            encoded = encode(lm, recipe, requests)
            going = state.run_of(self.name, lm, layers, requests)
            steps: Iterator[Step[Any]] = run(going.session, recipe, encoded, len(encoded))
            entries = [step.entry for step in steps]
            going.note_state()
        for entry in filter(None, entries):
            for layer, keys in entry.past_keys.items():
                name = lm.weight_name(layer)
                copy, history = copies[name], state.histories[name]
                before = copy.T if isinstance(lm.down_proj(layer), Conv1D) else copy
                history.rewind(before)
                history.remember(before, lm.weight(layer), keys, entry.requests)
        return call.model, copies

    @property
    def one_by_one(self) -> bool:
        """See `BaseMethod`."""
        return self.base.one_by_one

    def _check(self, call: HostCall, lm: EditableModel, layers: Sequence[int]) -> None:
        """Refuse hparams of the host's that mean something else to it."""
        if self.theirs is None:
            return
        lm.check_layers(layers)
        names = self.theirs.weight_names(call.hparams)
        ours = [lm.weight_name(layer) for layer in layers]
        if names != ours:
            raise HostError(
                f"null_space_engine: native edits {ours[0]}, and the hparams name {names[0]}: "
                "remove the key"
            )
        if call.hparams.v_loss_layer != lm.depth - 1:
            raise ConfigError(
                f"null_space_engine: native takes the loss after the last layer, {lm.depth - 1}, "
                f"and v_loss_layer is {call.hparams.v_loss_layer}: remove the key"
            )
        if call.options.get("cache_template"):
            raise ConfigError("null_space_engine: native reads no cache_template=: remove one")

    def _recipe(
        self,
        state: ModelState,
        flag: NullSpaceFlag,
        call: HostCall,
        lm: EditableModel,
        layers: Sequence[int],
    ) -> Recipe:
        """What the hparams describe: they are the user's, and may change between edits."""
        hparams, names = call.hparams, {layer: lm.weight_name(layer) for layer in layers}
        kind: Any = self.base
        renamed = {f.name: OF_METHOD.get(f.name, f.name) for f in fields(kind)}
        given = {ours: getattr(hparams, k) for ours, k in renamed.items() if hasattr(hparams, k)}
        method: BaseMethod = kind(**given)
        moments = {}
        if flag.null_space:
            by_name = state.projectors_of(flag, call, list(names.values()))
            projectors = {layer: by_name[name] for layer, name in names.items()}
            solves = flag.solves(self.name, method.least_squares)
            mode = Mode.solve if solves else Mode.post
            method = AlphaEdit(method, projectors, mode, flag.null_space_l2)
        if method.needs_moment:
            read = state.moments_of(call, list(names.values()))
            moments = {layer: read[name] for layer, name in names.items()}
        return Recipe(
            method,
            tuple(layers),
            self._contexts(call),
            moments,
            FactToken(hparams.fact_token),
            targets=TargetSettings(
                **{ours: getattr(hparams, key) for ours, key in OF_TARGET.items()}
            ),
        )

    def _contexts(self, call: HostCall) -> ContextTemplates:
        """The host's own, which it samples once a process."""
        host = import_host().__name__ if self.theirs is None else self.theirs.package
        if not self.one_by_one:
            memit = methods_of(host)["MEMIT"].load()
            groups = memit.get_context_templates(call.model, call.tokenizer)
            return ContextTemplates(tuple(tuple(group) for group in groups))
        lengths = call.hparams.context_template_length_params
        rome = methods_of(host)["ROME"].load()
        templates = rome.get_context_templates(call.model, call.tokenizer, lengths)
        return ContextTemplates.of(templates, False)
