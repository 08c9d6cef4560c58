"""What is refused before anything is computed or changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from alphaedit_plugin.common.errors import ModelError, RequestError, counted, quoted
from alphaedit_plugin.data.conflicts import OnConflict, refuse_conflicts, replacements
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.recipe import Recipe, stages
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.targets import target_sentences
from alphaedit_plugin.methods.base import missing_moment
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import tokenise_pairs
from alphaedit_plugin.models.tokens import locate

logger = logging.getLogger(__name__)


def check_requests(lm: EditableModel, recipe: Recipe, requests: Sequence[Request]) -> None:
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
            _check_request(lm, recipe, request)
        except RequestError as error:
            raise RequestError(f"request {number}: {error}") from None
    if recipe.on_conflict is OnConflict.refuse:
        refuse_conflicts(requests)


def _check_request(lm: EditableModel, recipe: Recipe, request: Request) -> None:
    if not isinstance(request, Request):
        raise RequestError(f"{request!r} is no Request: make it with Request.parse")
    rows = target_sentences(lm, request, recipe.contexts, recipe.fact_token)
    longest, limit = max(len(sentence.ids) for sentence, _ in rows), lm.context_length
    if limit is not None and longest > limit:
        raise RequestError(
            f"{request.filled[:60]!r}… takes {longest} tokens with its context and target, but "
            f"the model's context is {limit}"
        )
    bare, target = rows[0]
    early = bare.position < len(bare.ids) - len(target)
    if early and any(stage.layers[-1] == lm.depth - 1 for stage in stages(recipe, [request])):
        raise RequestError(
            f"layer {lm.depth - 1} is the model's last block, behind which nothing carries an "
            f"edit from {request.subject!r} to the answer: edit earlier layers, or set "
            "model.fact_token=last"
        )


def check_editable(lm: EditableModel, recipes: Sequence[Recipe], request: Request) -> None:
    """Refuse a request of a data set that a recipe cannot edit, or a metric cannot ask about.

    Raises:
        RequestError: see `check_requests`, and `scoring.score` for what is asked.
    """
    for recipe in recipes:
        _check_request(lm, recipe, request)
    tokenise_pairs(lm, list(_scored(request)))


def _scored(request: Request) -> Iterator[tuple[str, str]]:
    """Every answer that a metric scores, after its prompt."""
    answers = [request.target_new, request.ground_truth or request.target_new, *request.accept]
    for prompt in (request.filled, *request.rephrase):
        yield from ((prompt, answer) for answer in answers)
    for probe in (*request.locality.values(), *request.portability.values()):
        for prompt, answer, others in probe.rows:  # of a neighbour the new answer is asked, too
            yield from ((prompt, one) for one in (answer, *others, request.target_new))


def told_apart(recipes: Iterable[Recipe]) -> list[Recipe]:
    """One of each kind of recipe that `check_editable` can tell apart."""
    kinds = {(r.contexts, r.fact_token, r.layers, r.method.one_by_one): r for r in recipes}
    return list(kinds.values())


def warn_of_shared_tokens(
    lm: EditableModel, recipes: Iterable[Recipe], requests: Sequence[Request]
) -> None:
    """Log what `shared_tokens` says, once for all recipes of one fact token."""
    for recipe in {recipe.fact_token: recipe for recipe in recipes}.values():
        shared = shared_tokens(lm, recipe, requests)
        if shared:
            logger.warning("%s", shared)


def shared_tokens(lm: EditableModel, recipe: Recipe, requests: Sequence[Request]) -> str | None:
    """Say which subjects share their fact token with the text beside them; ``None`` for none.

    They are edited there, as the published code does.
    """
    found = [
        (request, sentence.beside)
        for request in requests
        if (
            sentence := locate(lm.tokenizer, request.prompt, request.subject, recipe.fact_token)
        ).beside
    ]
    if not found:
        return None
    request, beside = found[0]
    return (
        f"edited at a token that the subject shares with the text beside it: "
        f"{len(found)} of {counted(len(requests), 'request')}, such as {quoted(request.subject)} "
        f"with {quoted(beside)} in {quoted(request.filled)}"
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
