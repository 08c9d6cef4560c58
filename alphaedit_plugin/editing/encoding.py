"""Requests as the model reads them. Each is encoded once, and encoding it is the check."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from alphaedit_plugin.common.errors import ConfigError, RequestError, counted, quoted
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.request import SLOT, Request
from alphaedit_plugin.data.selection import select_fitting
from alphaedit_plugin.data.settings import DataConfig
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.metrics.known import only_known
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import Sentence, complete, locate

logger = logging.getLogger(__name__)

ESSENCE = f"{SLOT} is a"  # the prompt on which the subject's other traits must not change


@dataclass(frozen=True)
class EncodedRequest:
    """A request in tokens.

    Attributes:
        request: what it is made from.
        sentences: the prompt after each context template, the bare one first, with all but the
            last token of the answer.
        answers: the tokens of the answer in each sentence.
        essence: `ESSENCE`, up to its fact token.
    """

    request: Request
    sentences: tuple[Sentence, ...]
    answers: tuple[tuple[int, ...], ...]
    essence: Sentence


def encode(
    lm: EditableModel, recipe: Recipe, requests: Sequence[Request]
) -> tuple[EncodedRequest, ...]:
    """Encode requests; what cannot be edited is refused, before anything is computed or changed.

    Raises:
        RequestError: there is no request; or see `encode_request`: the message says which one.
    """
    if not isinstance(requests, Sequence):
        raise RequestError(f"requests is {requests!r}: give a list of them")
    if not requests:
        raise RequestError("no request to edit: give at least one prompt")
    encoded = []
    for number, request in enumerate(requests):
        try:
            encoded.append(encode_request(lm, recipe, request))
        except RequestError as error:
            raise RequestError(f"request {number}: {error}") from None
    return tuple(encoded)


def encode_request(lm: EditableModel, recipe: Recipe, request: Request) -> EncodedRequest:
    """Encode one request.

    Raises:
        RequestError: not a request; a subject that cannot be located, an answer without a token, a
            prompt longer than the model's context, or an edit that cannot reach the answer.
        ConfigError: the answer is to end in a token that the tokenizer does not have.
    """
    if not isinstance(request, Request):
        raise RequestError(f"{request!r} is not a Request: make it with Request.parse")
    tokenizer, end = lm.tokenizer, _end(lm, recipe)
    rows = [
        complete(lm, lm.asked(text), request.subject, request.target_new, recipe.fact_token, end)
        for text in recipe.contexts.around(tokenizer, request.prompt)
    ]
    encoded = EncodedRequest(
        request,
        tuple(sentence for sentence, _ in rows),
        tuple(tuple(answer) for _, answer in rows),
        locate(tokenizer, lm.asked(ESSENCE), request.subject, recipe.fact_token).until_fact(),
    )
    _check_length(lm, encoded)
    _check_reach(lm, recipe, encoded)
    return encoded


def _end(lm: EditableModel, recipe: Recipe) -> tuple[int, ...]:
    """What an answer ends with.

    Raises:
        ConfigError: the tokenizer has no such token.
    """
    if not recipe.targets.append_eos:
        return ()
    if lm.tokenizer.eos_token_id is None:
        raise ConfigError("model.target.append_eos=true, but this tokenizer has no eos: remove it")
    return (int(lm.tokenizer.eos_token_id),)


def encode_fitting(
    lm: EditableModel,
    recipe: Recipe,
    data: EditData,
    settings: DataConfig,
    check: Callable[[Request], object] = lambda request: None,
) -> tuple[EditData, tuple[EncodedRequest, ...]]:
    """Select the requests of a data set that can be edited, see `select_fitting`, and encode them.

    Args:
        lm: the model, unedited where ``settings.known`` asks what it knows.
        recipe: how they are to be edited.
        data: all there is.
        settings: which of it.
        check: raises `RequestError` for what else does not fit.
    """
    encoded: dict[tuple[str, str, str], EncodedRequest] = {}
    if settings.known:
        data = only_known(lm, data)

    def fits(request: Request) -> None:
        encoded[_edit_of(request)] = encode_request(lm, recipe, request)
        check(request)

    selected = select_fitting(data, settings, fits)  # may give some of them other probes
    return selected, tuple(
        replace(encoded[_edit_of(request)], request=request) for request in selected.requests
    )


def warn_of_shared_tokens(encoded: Sequence[EncodedRequest]) -> None:
    """Log which subjects share their fact token with the text beside them.

    They are edited there, as the published code does.
    """
    shared = [one for one in encoded if one.sentences[0].beside]
    if shared:
        request = shared[0].request
        logger.warning(
            "edited at a token that the subject shares with the text beside it: %d of %s, such as "
            "%s with %s in %s",
            len(shared), counted(len(encoded), "request"), quoted(request.subject),
            quoted(shared[0].sentences[0].beside), quoted(request.filled),
        )  # fmt: skip


def _edit_of(request: Request) -> tuple[str, str, str]:
    return request.prompt, request.subject, request.target_new


def _check_length(lm: EditableModel, encoded: EncodedRequest) -> None:
    longest = max(len(sentence.ids) for sentence in encoded.sentences)
    if lm.context_length is not None and longest > lm.context_length:
        raise RequestError(
            f"{encoded.request.filled[:60]!r}… takes {longest} tokens with its context and target, "
            f"but the model's context is {lm.context_length}"
        )


def _check_reach(lm: EditableModel, recipe: Recipe, encoded: EncodedRequest) -> None:
    """After the last block, nothing moves what was edited on to the tokens that follow."""
    bare, answer = encoded.sentences[0], encoded.answers[0]
    last = recipe.layers if recipe.method.one_by_one else recipe.layers[-1:]
    if bare.position < len(bare.ids) - len(answer) and lm.depth - 1 in last:
        raise RequestError(
            f"layer {lm.depth - 1} is the model's last block, after which nothing carries an "
            f"edit from {encoded.request.subject!r} to the answer: edit earlier layers, or set "
            "model.fact_token=last"
        )
