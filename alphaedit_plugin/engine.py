"""One batch of edits, start to end: request → key and target → base method → projector → weight."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.conflicts import (
    OnConflict,
    refuse_conflicts,
    replacements,
    standing,
    superseded,
)
from alphaedit_plugin.errors import ModelError, RequestError
from alphaedit_plugin.keys import Part, Reader, Site, average, read
from alphaedit_plugin.methods.base import BaseMethod, LayerProblem, missing_moment
from alphaedit_plugin.models import EditableModel, full_precision
from alphaedit_plugin.prompts import ContextTemplates, FactToken, Sentence, locate
from alphaedit_plugin.reach import value_residual
from alphaedit_plugin.request import SLOT, Request, among
from alphaedit_plugin.session import EditSession, Entry
from alphaedit_plugin.statistics import SecondMoment
from alphaedit_plugin.targets import (
    OnFailure,
    TargetError,
    TargetSearch,
    TargetSettings,
    optimise_targets,
    target_sentences,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything an edit needs besides the model and the requests.

    Attributes:
        method: a base method, plain or projected.
        layers: edited in this order.
        contexts: the context templates of keys and targets.
        moments: second moment per layer, for the methods that read it.
        fact_token: which token holds the fact.
        targets: how target values are searched.
        search: what searches; a `StoredTargets` finds again what another run has found.
        on_conflict: what becomes of requests of one batch that contradict each other.
    """

    method: BaseMethod
    layers: tuple[int, ...]
    contexts: ContextTemplates
    moments: Mapping[int, SecondMoment] = field(default_factory=dict)
    fact_token: FactToken = FactToken.subject_last
    targets: TargetSettings = field(default_factory=TargetSettings)
    search: TargetSearch = optimise_targets
    on_conflict: OnConflict = OnConflict.last

    def description(self) -> dict[str, Any]:
        """What this recipe is, in JSON, for a journal."""
        return {
            **self.method.description(),
            "layers": list(self.layers),
            "contexts": [list(group) for group in self.contexts.groups],
            "fact_token": self.fact_token.value,
            "targets": asdict(self.targets),
        }


@dataclass(frozen=True)
class Stage:
    """Requests whose targets are found together, and the layers that then write them."""

    requests: tuple[Request, ...]
    layers: tuple[int, ...]


def stages(recipe: Recipe, requests: Sequence[Request]) -> list[Stage]:
    """Split a batch as its method works: all at once, or one request and layer after another."""
    if recipe.method.one_by_one:
        return [Stage((request,), (layer,)) for request in requests for layer in recipe.layers]
    return [Stage(tuple(requests), recipe.layers)]


def check_requests(view: EditableModel, recipe: Recipe, requests: Sequence[Request]) -> None:
    """Refuse what cannot be edited, before anything is computed or changed.

    Raises:
        RequestError: no request, or something that is none; a subject that cannot be located, a
            target without a token, a prompt longer than the model's context, or an edit that
            cannot reach the answer; the message says which request. Or two that contradict
            each other, where ``recipe.on_conflict`` refuses them.
    """
    if not isinstance(requests, Sequence):
        raise RequestError(f"requests is {requests!r}: give a list of them")
    if not requests:
        raise RequestError("no request to edit: give at least one prompt")
    for number, request in enumerate(requests):
        try:
            _check_request(view, recipe, request)
        except RequestError as error:
            raise RequestError(f"request {number}: {error}") from None
    if recipe.on_conflict is OnConflict.refuse:
        refuse_conflicts(requests)


def _check_request(view: EditableModel, recipe: Recipe, request: Request) -> None:
    if not isinstance(request, Request):
        raise RequestError(f"{request!r} is no Request: make it with Request.parse")
    rows = target_sentences(view, request, recipe.contexts, recipe.fact_token)
    longest, limit = max(len(sentence.ids) for sentence, _ in rows), view.context_length
    if limit is not None and longest > limit:
        raise RequestError(
            f"{request.filled[:60]!r}… takes {longest} tokens with its context and target, but "
            f"the model's context is {limit}"
        )
    bare, target = rows[0]
    early = bare.position < len(bare.ids) - len(target)
    if early and any(stage.layers[-1] == view.depth - 1 for stage in stages(recipe, [request])):
        raise RequestError(
            f"layer {view.depth - 1} is the model's last block, behind which nothing carries an "
            f"edit from {request.subject!r} to the answer: edit earlier layers, or set "
            "model.fact_token=last"
        )


def check_conflicts(session: EditSession, recipe: Recipe, requests: Sequence[Request]) -> list[str]:
    """Say which earlier edits these requests contradict, one line for each.

    Raises:
        RequestError: there is one, and ``recipe.on_conflict`` refuses it.
    """
    notes = [
        f"{new.target_new!r} is wanted for {old.filled!r}, where an earlier edit wrote "
        f"{old.target_new!r}"
        for old, new in replacements(session.batches, requests)
    ]
    if notes and recipe.on_conflict is OnConflict.refuse:
        raise RequestError(
            f"{notes[0]}: undo that one first, or set on_conflict=last to replace it"
        )
    return notes


def check_recipe(session: EditSession, recipe: Recipe) -> None:
    """Refuse a recipe that does not fit the session, before anything is computed or changed.

    Raises:
        ModelError: a layer that the session does not keep, or see `BaseMethod.check_layers`.
        ConfigError: a layer without the second moment that the method reads.
        ProjectorError: a layer without a projector.
    """
    foreign = [layer for layer in recipe.layers if layer not in session.layers]
    if foreign:
        raise ModelError(
            f"layer {foreign[0]} is not among the session's layers {list(session.layers)}: "
            "start a session with all layers that are to be edited"
        )
    without = [layer for layer in recipe.layers if layer not in recipe.moments]
    if recipe.method.needs_moment and without:
        raise missing_moment(without[0])
    recipe.method.check_layers(recipe.layers)


@full_precision()
def apply_batch(
    view: EditableModel, session: EditSession, recipe: Recipe, requests: Sequence[Request]
) -> Entry:
    """Edit ``requests`` into the model, all of them or, on any error, none.

    Left out, with a warning, are requests that a later one of the batch contradicts and, where
    ``recipe.targets.on_failure`` says so, those whose target search fails. An edit of an earlier
    batch that is contradicted is replaced: its key is no longer kept in place.

    Returns:
        The session's new journal entry.

    Raises:
        RequestError: see `check_requests` and `check_conflicts`; and `check_recipe`.
        AlphaEditError: see `EditSession.check_weights`.
        NumericalError: a target search or a delta left the finite numbers.
        OutOfMemory: one request alone does not fit into memory.
    """
    check_recipe(session, recipe)
    check_requests(view, recipe, requests)
    replaced = check_conflicts(session, recipe, requests)
    if replaced:
        more = f" (and {len(replaced) - 1} more like it)" if len(replaced) > 1 else ""
        logger.warning("%s: the later one replaces it%s", replaced[0], more)
    left, failed = standing(requests), list[Request]()
    while True:
        try:
            return _write_batch(view, session, recipe, left, failed)
        except TargetError as error:
            if recipe.targets.on_failure is OnFailure.refuse:
                raise
            logger.warning("left out: %s", error)
            failed += error.failed
            # What the batch wrote is taken back: the others are edited as if these never were.
            left = [request for request in left if not among(request, failed)]


def _write_batch(
    view: EditableModel,
    session: EditSession,
    recipe: Recipe,
    requests: Sequence[Request],
    failed: Sequence[Request],
) -> Entry:
    lost = superseded(session.batches, requests)
    with session.batch():
        done = stages(recipe, requests) if requests else []
        keys = [_apply_stage(view, session, recipe, stage, lost) for stage in done]
        needed = recipe.method.needs_history and requests
        past = _past_keys(view, recipe, requests, keys) if needed else {}
        return session.commit(requests, past, recipe.description(), failed)


def _past_keys(
    view: EditableModel,
    recipe: Recipe,
    requests: Sequence[Request],
    read_before: Sequence[dict[int, Tensor]],
) -> dict[int, Tensor]:
    """The batch's keys in the model as its writes left it.

    A layer's keys depend on the layers below it alone. Within a stage these were written before
    the keys were read; a later stage may write below them again.
    """
    if len(read_before) == 1:
        return read_before[0]
    return _keys(view, recipe, requests, recipe.layers)


def _apply_stage(
    view: EditableModel,
    session: EditSession,
    recipe: Recipe,
    stage: Stage,
    lost: Sequence[Collection[int]],
) -> dict[int, Tensor]:
    """Write one stage; returns the averaged keys ``(d_in, n)`` per layer."""
    site = Site(stage.layers[-1], recipe.method.target)
    targets = recipe.search(
        view, stage.requests, recipe.contexts, site, recipe.fact_token, recipe.targets
    )
    contexts = len(recipe.contexts.flat)  # of each request side by side, "{}" first
    sentences = _sentences(view, recipe, stage.requests)
    reader = Reader(view, sentences, recipe.targets.budget)
    keys = {}
    for place, layer in enumerate(stage.layers):
        # Later layers see what earlier ones wrote, so keys and residual are read anew for each.
        found = reader.read_key(layer)
        keys[layer] = average(found, recipe.contexts.weights)
        current = reader.read([site], every=contexts)[site]
        missing = (targets.values.to(current) - current) / (len(stage.layers) - place)
        if site.part is Part.BLOCK:
            bare = sentences[::contexts]
            missing = value_residual(view, layer, bare, missing, recipe.targets.budget)
        problem = LayerProblem(
            layer=layer,
            keys=keys[layer],
            subject_keys=found[:, ::contexts],
            residual=missing.to(found),
            weight=view.weight(layer),
            moment=recipe.moments.get(layer),
            past=session.past(layer, lost),
        )
        session.write(layer, recipe.method.delta(problem))
    return keys


@full_precision()
def finalize(session: EditSession, recipe: Recipe) -> Entry | None:
    """End a run: let the method rework the sum of its deltas (PRUNE), against pristine weights.

    Returns:
        The journal entry that turns the sum into its final form; ``None`` where the method has
        nothing to do, or nothing was edited.

    Raises:
        AlphaEditError: see `EditSession.check_weights`.
    """
    if not session.journal:
        return None
    with session.batch():
        changed = False
        for layer in recipe.layers:
            accumulated, pristine = session.accumulated(layer), session.pristine(layer)
            final = recipe.method.finalize(layer, accumulated, pristine)
            if final is not None:
                changed = True
                # PRUNE changes few singular values; what is below the sum's rounding is dropped.
                rounding = torch.finfo(torch.float32).eps * accumulated.norm().item()
                session.write(layer, final.minus(accumulated).factored(rounding))
        return session.commit(method=recipe.description()) if changed else None


def _sentences(view: EditableModel, recipe: Recipe, requests: Sequence[Request]) -> list[Sentence]:
    """Every request behind every context template, the contexts of a request side by side."""
    return [
        locate(
            view.tokenizer,
            context.replace(SLOT, request.prompt),
            request.subject,
            recipe.fact_token,
        )
        for request in requests
        for context in recipe.contexts.flat
    ]


def _keys(
    view: EditableModel, recipe: Recipe, requests: Sequence[Request], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Per layer the keys ``(d_in, n)`` of ``requests`` in the model as it is now."""
    sites = {layer: Site(layer, Part.KEY) for layer in layers}
    sentences = _sentences(view, recipe, requests)
    found = read(view, list(sites.values()), sentences, recipe.targets.budget)
    return {layer: average(found[site], recipe.contexts.weights) for layer, site in sites.items()}
