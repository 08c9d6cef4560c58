"""`NullSpaceEditor`: edits a model the way EasyEdit's ``BaseEditor`` does, with or without it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError, require, unknown_name
from alphaedit_plugin.common.groups import options
from alphaedit_plugin.config.build import load
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.overrides import key_of
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.data.arguments import prepare_requests
from alphaedit_plugin.data.request import Request, among
from alphaedit_plugin.editing import engine
from alphaedit_plugin.editing.encoding import EncodedRequest, encode, warn_of_shared_tokens
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.run import ApplyBatch, Step, run
from alphaedit_plugin.metrics.easyedit import (
    Metrics,
    accuracies,
    add_locality,
    check_quality,
    edit_quality,
    requested_rewrite,
)
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.journal import Journal
from alphaedit_plugin.patches.sessions import open_session

logger = logging.getLogger(__name__)

Triple = tuple[list[Metrics], Any, dict[str, Tensor]]


class NullSpaceEditor:
    """Edits one model with one recipe; everything it accumulates is in ``session``.

    Args:
        lm: the model to edit, in place.
        recipe: how.
        batch_size: requests per batch in `batch_edit`.
        journal: a folder that keeps every batch, see `EditSession`.
        apply_batch: edits a batch, in whatever way.

    Attributes:
        session: pristine weights, key history and journal of this editor's run.
    """

    def __init__(
        self,
        lm: EditableModel,
        recipe: Recipe,
        batch_size: int = 1,
        journal: str | Path | None = None,
        apply_batch: ApplyBatch = engine.apply_batch,
    ) -> None:
        _check_batch_size(batch_size)
        self.lm = lm
        self.recipe = recipe
        self.batch_size = batch_size
        self._apply_batch = apply_batch
        self.session = open_session(lm, recipe.layers, journal)

    @classmethod
    def from_config(cls, config: EditorConfig, lm: EditableModel | None = None) -> NullSpaceEditor:
        """Load what ``config`` names: model, second moments, projector, context templates.

        Args:
            config: names them.
            lm: a model that is loaded already, for which ``config.model.path`` is not read.

        Raises:
            AlphaEditError: something named there is missing or does not fit.
        """

        def check(found: EditableModel) -> None:
            if config.journal is not None:
                weights = {layer: found.weight(layer) for layer in config.model.layers}
                Journal.fitting(Path(config.journal).expanduser(), found, weights)

        return cls(*load(config, check, lm), config.batch_size, config.journal)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | tuple[Any, Any],
        *,
        null_space: bool = True,
        overrides: Sequence[str] = (),
        journal: str | Path | None = None,
    ) -> NullSpaceEditor:
        """Take a model, by name or as it is, and edit it with the settings that go with it.

        Args:
            model: the name of a shipped configuration (``"pocket"``, ``"gpt2-xl"``, …); or a
                folder or hub name of any causal LM of a known family, or a model and its tokenizer
                as your own code loaded them, edited in place. ``overrides`` then have to say which
                layers: ``["model.layers=[3,4]"]``.
            null_space: project, or edit plainly.
            overrides: as on the command line: ``["base=rect", "projector=energy"]``.
            journal: a folder that keeps every batch as it is applied; what it holds already is
                applied first.

        Raises:
            AlphaEditError: something named there is missing or does not fit.
        """
        pair = model if isinstance(model, tuple) else None
        if pair is not None and len(pair) != 2:
            raise ConfigError(f"model is a tuple of {len(pair)}: give a model and a tokenizer")
        name = "" if pair else str(model)
        known = name in options("model")
        chosen = [f"model={name}"] if known else ["model=custom", "model.path=given"]
        flag = f"null_space={str(null_space).lower()}"
        _check_overrides(name, known, overrides)
        config = load_config([*chosen, flag, *overrides])
        if journal is not None:
            config.journal = str(journal)
        if pair:
            settings = config.model
            lm = EditableModel.wrap(*pair, settings.layout.given, settings.separator, settings.chat)
            return cls.from_config(config, lm)
        if not known:  # which needs no quoting here, whatever is in it
            config.model.path = name
        return cls.from_config(config)

    @property
    def model(self) -> Any:
        """The model, as edited so far."""
        return self.lm.model

    @property
    def tok(self) -> Any:
        """Its tokenizer, by the host's name."""
        return self.lm.tokenizer

    def edit(
        self,
        prompts: str | Sequence[str],
        target_new: str | Sequence[str],
        ground_truth: str | Sequence[str | None] | None = None,
        target_neg: str | Sequence[str | None] | None = None,
        rephrase_prompts: str | Sequence[str | None] | None = None,
        locality_inputs: Mapping[str, Any] | None = None,
        portability_inputs: Mapping[str, Any] | None = None,
        sequential_edit: bool = False,
        verbose: bool = True,
        *,
        subject: str | Sequence[str] | None = None,
    ) -> Triple:
        """Edit one request after another, as EasyEdit's ``BaseEditor.edit``.

        Args:
            prompts: with the subject in them, or a slot ``{}`` in its place.
            target_new: the new answers.
            ground_truth: the old answers, if known.
            target_neg: in the host's place and as unread by these methods as there.
            rephrase_prompts: other ways to ask, for ``rephrase_acc``.
            locality_inputs: ``{name: {"prompt": …, "ground_truth": …}}``, what must not change.
            portability_inputs: the same form, what must follow.
            sequential_edit: keep each edit; or else each is undone once it is evaluated.
            verbose: log each request's metrics.
            subject: the subjects.

        Returns:
            Metrics per request with ``pre`` and ``post`` in the host's layout, and with
            ``left_out`` where it was not edited (see `engine.apply_batch`), with
            ``target_search``, how far that came, and ``unlearnt`` where the answer is not given
            (see `Search.unlearnt`); the model; and the weights as they were before the last edit,
            by name.

        Raises:
            RequestError: a request that cannot be edited; no weight has changed then.
            NumericalError: see `engine.apply_batch`.
        """
        requests = prepare_requests(
            prompts, target_new, subject, ground_truth, rephrase_prompts,
            locality_inputs, portability_inputs, target_neg,
        )  # fmt: skip
        return self.edit_requests(requests, sequential_edit, verbose)

    def batch_edit(
        self,
        prompts: Sequence[str],
        target_new: Sequence[str],
        ground_truth: Sequence[str | None] | None = None,
        target_neg: Sequence[str | None] | None = None,
        rephrase_prompts: Sequence[str | None] | None = None,
        locality_inputs: Mapping[str, Any] | None = None,
        portability_inputs: Mapping[str, Any] | None = None,
        sequential_edit: bool = False,
        verbose: bool = True,
        *,
        subject: Sequence[str] | None = None,
    ) -> Triple:
        """As `edit`, in batches of ``batch_size``; each batch is one least-squares problem.

        As in the host, ``pre`` is measured right before each batch: in a sequential run that is
        the model the earlier batches left.
        """
        requests = prepare_requests(
            prompts, target_new, subject, ground_truth, rephrase_prompts,
            locality_inputs, portability_inputs, target_neg,
        )  # fmt: skip
        encoded = self._encode(requests)
        return self._edit(encoded, sequential_edit, verbose, self.batch_size)

    def edit_requests(
        self,
        requests: Sequence[Request],
        sequential_edit: bool = False,
        verbose: bool = True,
        batch_size: int = 1,
    ) -> Triple:
        """Edit prepared requests; see `edit`. All ``pre`` are measured before the first edit."""
        _check_batch_size(batch_size)
        encoded = self._encode(requests)
        before = edit_quality(self.lm, requests)
        return self._edit(encoded, sequential_edit, verbose, batch_size, before)

    def _encode(self, requests: Sequence[Request]) -> tuple[EncodedRequest, ...]:
        """Refuse what could fail halfway, before any weight changes."""
        self.session.check_weights()
        encoded = encode(self.lm, self.recipe, requests)
        check_quality(self.lm, requests)
        warn_of_shared_tokens(encoded)
        return encoded

    def _edit(
        self,
        encoded: Sequence[EncodedRequest],
        keep: bool,
        verbose: bool,
        batch_size: int,
        before: Sequence[Metrics] = (),
    ) -> Triple:
        if not keep:
            logger.info(
                "each edit is undone once it is evaluated, as in EasyEdit: sequential_edit=True "
                "keeps them"
            )
        metrics: list[Metrics] = []
        weights = self._weights()
        steps = self.run(
            encoded, batch_size=batch_size, evaluate=partial(edit_quality, self.lm), before=before,
            keep=keep, end=False,
        )  # fmt: skip
        for step in steps:
            for request, pre, post in zip(step.requests, step.before, step.after, strict=True):
                add_locality(pre, post)
                metrics.append(
                    {
                        "case_id": len(metrics),
                        "requested_rewrite": requested_rewrite(request),
                        "pre": pre,
                        "post": post,
                        "time": step.seconds,
                        **_left_out(request, step.entry),
                        **_search(request, step.entry, post),
                    }
                )
                if verbose:
                    logger.info("%s → %s: %s", request.filled, request.target_new, metrics[-1])
            if keep and step.entry is not None:
                self.note([step.entry], step.requests, step.after)
            if len(metrics) < len(encoded):
                weights = self._weights()
        return metrics, self.lm.model, weights

    def run(self, encoded: Sequence[EncodedRequest], **options: Any) -> Iterator[Step[Any]]:
        """Edit in batches, one at each step; see `editing.run.run`."""
        options = {"batch_size": self.batch_size, "apply": self._apply_batch, **options}
        return run(self.session, self.recipe, encoded, **options)

    def note(
        self, entries: Sequence[Entry], asked: Sequence[Request], metrics: Sequence[Metrics]
    ) -> None:
        """Keep in the session what was measured of entries' edits, as far as they were asked."""
        self.session.note(
            {
                name: accuracies(metrics[asked.index(request)])
                for entry in entries
                for name, request in zip(entry.ids, entry.requests, strict=True)
                if request in asked
            }
        )

    def apply(self, requests: Sequence[Request]) -> Entry:
        """Edit one batch and keep it, without evaluating anything."""
        return self._apply_batch(self.session, self.recipe, encode(self.lm, self.recipe, requests))

    def finalize(self) -> Entry | None:
        """End the run: PRUNE restrains what has accumulated; the others have nothing to do.

        A sequential run is ended by its user, as only they know which edit is the last; a
        non-sequential `edit` ends each request's own run itself.
        """
        return engine.finalize(self.session, self.recipe)

    def _weights(self) -> dict[str, Tensor]:
        return {
            self.lm.weight_name(layer): self.lm.stored(layer).clone()
            for layer in self.recipe.layers
        }


def _left_out(request: Request, entry: Entry | None) -> Metrics:
    """What a request's metrics say where it was not edited: why."""
    if entry is not None and among(request, entry.requests):
        return {}
    failed = entry is not None and among(request, entry.failed)
    return {"left_out": "failed" if failed else "contradicted"}


def _search(request: Request, entry: Entry | None, after: Metrics) -> Metrics:
    """How far its target search came and, where its answer is not given, what is to blame."""
    pairs = zip(entry.requests, entry.searches, strict=False) if entry is not None else ()
    search = next((search for one, search in pairs if one is request), None)
    if search is None:
        return {}
    why = search.unlearnt(after["rewrite_acc"][0])
    return {"target_search": asdict(search)} | ({} if why is None else {"unlearnt": why})


def _check_overrides(name: str, known: bool, overrides: Sequence[str]) -> None:
    """Refuse overrides that contradict the arguments, or lack what the model asks for."""
    keys = {key_of(override) for override in overrides}
    for key in ("model", "null_space"):
        if key in keys:
            raise ConfigError(f"overrides sets {key}: give it as an argument, or use from_config")
    if not known and "model.layers" not in keys:
        if not name:
            raise ConfigError("which layers? add overrides=['model.layers=[3,4]']")
        near = unknown_name("model configuration", name, options("model"))
        raise ConfigError(f"{near}; for a folder or hub name add overrides=['model.layers=[3,4]']")


def _check_batch_size(batch_size: int) -> None:
    fine = isinstance(batch_size, int) and batch_size >= 1
    require(fine, "batch_size", batch_size, "a whole number, at least 1")
