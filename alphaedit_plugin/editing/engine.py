"""One batch of edits, start to end: request → key and target → base method → projector → weight."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import counted
from alphaedit_plugin.data.conflicts import standing, superseded
from alphaedit_plugin.data.request import Request, among
from alphaedit_plugin.editing.checks import check_conflicts, check_recipe, check_requests
from alphaedit_plugin.editing.entry import Entry, Search
from alphaedit_plugin.editing.post_norm import value_residual
from alphaedit_plugin.editing.recipe import Recipe, Stage, stages
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import OnFailure, TargetError
from alphaedit_plugin.editing.targets import target_sentences
from alphaedit_plugin.methods.base import LayerProblem
from alphaedit_plugin.models.activations import Part, Reader, Site, average, read
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import full_precision
from alphaedit_plugin.models.tokens import Sentence

logger = logging.getLogger(__name__)

HUGE = 10.0  # ‖Δ‖/‖W‖ of one write; hundreds of edits together stay below


@full_precision()
def apply_batch(
    lm: EditableModel, session: EditSession, recipe: Recipe, requests: Sequence[Request]
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
    check_requests(lm, recipe, requests)
    replaced = check_conflicts(session, recipe, requests)
    if replaced:
        more = f" (and {len(replaced) - 1} more like it)" if len(replaced) > 1 else ""
        logger.warning("%s: the later one replaces it%s", replaced[0], more)
    left, failed = standing(requests), list[Request]()
    while True:
        try:
            return _write_batch(lm, session, recipe, left, failed)
        except TargetError as error:
            if recipe.targets.on_failure is OnFailure.refuse:
                raise
            logger.warning("left out: %s", error)
            failed += error.failed
            # What the batch wrote is taken back: the others are edited as if these never were.
            left = [request for request in left if not among(request, failed)]


def _write_batch(
    lm: EditableModel,
    session: EditSession,
    recipe: Recipe,
    requests: Sequence[Request],
    failed: Sequence[Request],
) -> Entry:
    lost = superseded(session.batches, requests)
    with session.batch():
        done = stages(recipe, requests) if requests else []
        found: dict[int, Search] = {}  # by the id of the request
        keys = [_apply_stage(lm, session, recipe, stage, lost, found) for stage in done]
        needed = recipe.method.needs_history and requests
        past = _past_keys(lm, recipe, requests, keys) if needed else {}
        searches = [found[id(request)] for request in requests]
        _tell(requests, searches)
        return session.commit(requests, past, recipe.description(), failed, searches)


def _past_keys(
    lm: EditableModel,
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
    return _keys(lm, recipe, requests, recipe.layers)


def _apply_stage(
    lm: EditableModel,
    session: EditSession,
    recipe: Recipe,
    stage: Stage,
    lost: Sequence[Collection[int]],
    searches: dict[int, Search],
) -> dict[int, Tensor]:
    """Write one stage, and note its ``searches``.

    Returns:
        The averaged keys ``(d_in, n)`` per layer.
    """
    site = Site(stage.layers[-1], recipe.method.target)
    targets = recipe.search(
        lm, stage.requests, recipe.contexts, site, recipe.fact_token, recipe.targets
    )
    came = zip(targets.loss.tolist(), targets.probability.tolist(), strict=True)
    searches.update(zip(map(id, stage.requests), (Search(*one) for one in came), strict=True))
    contexts = len(recipe.contexts.flat)  # of each request side by side, "{}" first
    sentences = _sentences(lm, recipe, stage.requests)
    reader = Reader(lm, sentences, recipe.targets.budget)
    keys = {}
    for place, layer in enumerate(stage.layers):
        # Later layers see what earlier ones wrote, so keys and residual are read anew for each.
        found = reader.read_key(layer)
        keys[layer] = average(found, recipe.contexts.weights)
        current = reader.read([site], every=contexts)[site]
        missing = (targets.values.to(current) - current) / (len(stage.layers) - place)
        if site.part is Part.BLOCK:
            bare = sentences[::contexts]
            missing = value_residual(lm, layer, bare, missing, recipe.targets.budget)
        problem = LayerProblem(
            layer=layer,
            keys=keys[layer],
            subject_keys=found[:, ::contexts],
            residual=missing.to(found),
            weight=lm.weight(layer),
            moment=recipe.moments.get(layer),
            past=session.past(layer, lost),
        )
        delta = recipe.method.delta(problem)
        _warn_of_size(layer, delta.norm, Delta(problem.weight).norm)
        session.write(layer, delta)
    return keys


def _tell(requests: Sequence[Request], searches: Sequence[Search]) -> None:
    """How far the target searches of a batch came, and which of them are no use."""
    for request, search in zip(requests, searches, strict=True):
        logger.info(
            "target search for %s → %s: loss %.3g, probability of the answer %.2g",
            request.filled, request.target_new, search.loss, search.probability,
        )  # fmt: skip
    missed = [pair for pair in zip(searches, requests, strict=True) if pair[0].missed]
    if missed:
        search, request = min(missed, key=lambda pair: pair[0].probability)
        logger.warning(
            "the target search found no value that gives the answer for %d of %s, least of all for "
            "%r → %r (probability %.2g): raise model.target.steps or model.target.lr, or edit "
            "earlier layers",
            len(missed), counted(len(requests), "request"), request.filled, request.target_new,
            search.probability,
        )  # fmt: skip


def _warn_of_size(layer: int, delta: float, weight: float) -> None:
    """An edit is small beside its weight; one that is not has met a key that nothing resembles."""
    if delta > HUGE * weight:
        logger.warning(
            "layer %d: the delta is %.1g times as large as the weight, which breaks a model: undo "
            "this edit, and try another layer, or second moments of more text",
            layer, delta / weight,
        )  # fmt: skip


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


def _sentences(lm: EditableModel, recipe: Recipe, requests: Sequence[Request]) -> list[Sentence]:
    """Every request behind every context template, the contexts of a request side by side."""
    return [
        sentence
        for request in requests
        for sentence, target in target_sentences(lm, request, recipe.contexts, recipe.fact_token)
        if target  # not the essence
    ]


def _keys(
    lm: EditableModel, recipe: Recipe, requests: Sequence[Request], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Per layer the keys ``(d_in, n)`` of ``requests`` in the model as it is now."""
    sites = {layer: Site(layer, Part.KEY) for layer in layers}
    sentences = _sentences(lm, recipe, requests)
    found = read(lm, list(sites.values()), sentences, recipe.targets.budget)
    return {layer: average(found[site], recipe.contexts.weights) for layer, site in sites.items()}
