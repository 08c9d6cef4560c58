"""One batch of edits, start to end: request → key and target → base method → projector → weight."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import RequestError, counted
from alphaedit_plugin.data.conflicts import OnConflict, refuse_conflicts, standing, superseded
from alphaedit_plugin.data.request import Request, among
from alphaedit_plugin.editing.encoding import EncodedRequest
from alphaedit_plugin.editing.entry import Entry, Search
from alphaedit_plugin.editing.post_norm import value_residual
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import OnFailure, TargetError
from alphaedit_plugin.editing.targets import TargetSearch, optimise_targets
from alphaedit_plugin.methods.base import LayerProblem
from alphaedit_plugin.models.activations import Part, Reader, Site, average, read
from alphaedit_plugin.models.hooks import full_precision

logger = logging.getLogger(__name__)

MAX_RELATIVE_NORM = 10.0  # ‖Δ‖/‖W‖ of one write; hundreds of normal edits together stay below

Batch = Sequence[EncodedRequest]
Keys = dict[int, Tensor]  # per layer (d_in, n)


@full_precision()
def apply_batch(
    session: EditSession,
    recipe: Recipe,
    batch: Batch,
    search: TargetSearch = optimise_targets,
) -> Entry:
    """Edit a batch into the session's model, all of it or, on any error, nothing.

    Left out, with a warning, are requests that a later one of the batch contradicts and, where
    ``recipe.targets.on_failure`` says so, those whose target search fails. An edit of an earlier
    batch that is contradicted is replaced: its key is no longer preserved.

    Args:
        session: of the model.
        recipe: how to edit; ``batch`` was encoded for it.
        batch: see `encode`.
        search: finds the target values; a `StoredTargets` takes those of another run.

    Returns:
        The session's new journal entry.

    Raises:
        AlphaEditError: see `Recipe.check`, `check_conflicts` and `EditSession.check_weights`.
        NumericalError: a target search or a delta is not finite.
        OutOfMemory: one request alone does not fit into memory.
    """
    recipe.check(session.layers)
    requests = [encoded.request for encoded in batch]
    replaced = check_conflicts(session, recipe, requests)
    if replaced:
        more = f" (and {len(replaced) - 1} more like it)" if len(replaced) > 1 else ""
        logger.warning("%s: the later one replaces it%s", replaced[0], more)
    lasting, failed = standing(requests), list[Request]()
    while True:
        remaining = [e for e in batch if among(e.request, lasting) and not among(e.request, failed)]
        try:
            return _write_batch(session, recipe, remaining, failed, search)
        except TargetError as error:
            if recipe.targets.on_failure is OnFailure.refuse:
                raise
            # What was written is undone: the others are edited as if these had never been asked.
            logger.warning("left out: %s", error)
            failed += error.failed


def check_conflicts(session: EditSession, recipe: Recipe, requests: Sequence[Request]) -> list[str]:
    """Say which earlier edits these requests contradict, one line for each.

    Raises:
        RequestError: there is one, or two requests contradict each other, and
            ``recipe.on_conflict`` refuses that.
    """
    refuse = recipe.on_conflict is OnConflict.refuse
    if refuse:
        refuse_conflicts(requests)
    notes = [
        f"{requests[winner].target_new!r} is wanted for {old.filled!r}, where an earlier edit "
        f"wrote {old.target_new!r}"
        for earlier, lost in zip(
            session.batches, superseded(session.batches, requests), strict=True
        )
        for old, winner in ((earlier[place], winner) for place, winner in lost.items())
        if winner >= 0
    ]
    if notes and refuse:
        raise RequestError(
            f"{notes[0]}: undo that one first, or set on_conflict=last to replace it"
        )
    return notes


def _write_batch(
    session: EditSession,
    recipe: Recipe,
    batch: Batch,
    failed: Sequence[Request],
    search: TargetSearch,
) -> Entry:
    requests = [encoded.request for encoded in batch]
    lost = superseded(session.batches, requests)
    with session.batch():
        stages: list[tuple[Batch, Sequence[int]]] = [(batch, recipe.layers)] if batch else []
        if recipe.method.one_by_one:
            stages = [([one], [layer]) for one in batch for layer in recipe.layers]
        done = [_apply_stage(session, recipe, *stage, lost, search) for stage in stages]
        searches = [search for _, searches in done for search in searches]
        if recipe.method.one_by_one:  # each request's last layer
            searches = searches[len(recipe.layers) - 1 :: len(recipe.layers)]
        past = {}
        if recipe.method.needs_history and batch:
            # A layer's keys depend on the layers below it alone. Within a stage these are written
            # before the keys are read; a later stage may write below them again.
            past = done[0][0] if len(done) == 1 else _keys(session, recipe, batch)
        _log_searches(requests, searches)
        return session.commit(requests, past, recipe.description(), failed, searches)


def _apply_stage(
    session: EditSession,
    recipe: Recipe,
    batch: Batch,
    layers: Sequence[int],
    lost: Sequence[Collection[int]],
    search: TargetSearch,
) -> tuple[Keys, list[Search]]:
    """Find targets together, and write them layer by layer.

    Returns:
        The keys, averaged over contexts, and how far each request's search came.
    """
    lm, budget = session.lm, recipe.targets.budget
    site = Site(layers[-1], recipe.method.target)
    targets = search(lm, batch, site, recipe.targets)
    contexts = len(recipe.contexts.flat)  # of each request side by side, the bare prompt first
    sentences = [sentence for encoded in batch for sentence in encoded.sentences]
    reader = Reader(lm, sentences, budget)
    keys = {}
    for place, layer in enumerate(layers):
        # Later layers see what earlier ones wrote, so keys and residual are read again for each.
        all_keys = reader.read_key(layer)
        keys[layer] = average(all_keys, recipe.contexts.weights)
        current = reader.read([site], every=contexts)[site]
        missing = (targets.values.to(current) - current) / (len(layers) - place)
        if site.part is Part.BLOCK:
            missing = value_residual(lm, layer, sentences[::contexts], missing, budget)
        problem = LayerProblem(
            layer=layer,
            keys=keys[layer],
            subject_keys=all_keys[:, ::contexts],
            residual=missing.to(all_keys),
            weight=lm.weight(layer),
            moment=recipe.moments.get(layer),
            past=session.past(layer, lost),
        )
        delta = recipe.method.delta(problem)
        _warn_of_size(layer, delta.norm, Delta(problem.weight).norm)
        session.write(layer, delta)
    progress = zip(targets.loss.tolist(), targets.probability.tolist(), strict=True)
    return keys, [Search(loss, probability) for loss, probability in progress]


def _keys(session: EditSession, recipe: Recipe, batch: Batch) -> Keys:
    """The keys of a batch in the model as it is now, averaged over contexts."""
    sites = {layer: Site(layer, Part.KEY) for layer in recipe.layers}
    sentences = [sentence for encoded in batch for sentence in encoded.sentences]
    vectors = read(session.lm, list(sites.values()), sentences, recipe.targets.budget)
    return {layer: average(vectors[site], recipe.contexts.weights) for layer, site in sites.items()}


def _log_searches(requests: Sequence[Request], searches: Sequence[Search]) -> None:
    """How far the target searches of a batch came; a warning where one found no useful value."""
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
    """Warn if ‖Δ‖ ≫ ‖W‖: the key lies outside the second moment's support."""
    if delta > MAX_RELATIVE_NORM * weight:
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
        nothing to do, the run has ended, or nothing was edited.

    Raises:
        AlphaEditError: see `EditSession.check_weights`.
    """
    if not session.journal or session.ended:
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
