"""Requests through a chat template, and answers that end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.encoding import ESSENCE, encode
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.models.chat import in_chat
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import tokenise_pairs
from tests.tiny import BEGIN, CONTEXTS, REQUESTS, SEARCH, build_model, fast_tokenizer

RECIPE = Recipe(Memit(), (1,), CONTEXTS, targets=SEARCH)
ONE = REQUESTS[0]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages if m.role == 'user' %}* {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}- {% endif %}"
)


@pytest.fixture
def chat() -> EditableModel:
    tokenizer = fast_tokenizer("bos")
    tokenizer.chat_template = TEMPLATE
    return EditableModel.wrap(build_model("gpt2", len(tokenizer)), tokenizer, chat=True)


def test_an_edit_goes_through_the_template(chat: EditableModel) -> None:
    """Context and prompt are the user's message, and the answer follows the header as it is."""
    tokenizer = chat.tokenizer
    (encoded,) = encode(chat, RECIPE, [ONE])
    for context, sentence, answer in zip(
        CONTEXTS.flat, encoded.sentences, encoded.answers, strict=True
    ):
        message = context.replace("{}", ONE.filled)
        read = tokenizer.decode([*sentence.ids, answer[-1]])
        assert read.replace(" ", "") == (in_chat(tokenizer, message) + ONE.target_new).replace(
            " ", ""
        )
        assert sentence.ids.count(tokenizer.bos_token_id) == 1
        fact = tokenizer.decode([sentence.ids[sentence.position]]).strip()
        assert fact
        assert ONE.subject.endswith(fact)
    about = tokenizer.decode(encoded.essence.ids)
    start = in_chat(tokenizer, ESSENCE.replace("{}", ONE.subject)).partition(" is a")[0]
    assert about.replace(" ", "") == start.replace(" ", "")


def test_what_is_asked_goes_through_it_too(chat: EditableModel) -> None:
    (encoded,) = encode(chat, RECIPE, [ONE])
    ((before, labels),) = tokenise_pairs(chat, [(ONE.filled, ONE.target_new)])
    assert (*before, *labels[:-1]) == encoded.sentences[0].ids
    assert tuple(labels) == encoded.answers[0]


def test_chat_text_is_not_put_into_the_template_again(chat: EditableModel) -> None:
    text = in_chat(chat.tokenizer, ONE.prompt)
    assert text.startswith(BEGIN)
    (given,) = encode(chat, RECIPE, [replace(ONE, prompt=text)])
    (made,) = encode(chat, RECIPE, [ONE])
    assert given.sentences[0] == made.sentences[0]


def test_an_answer_may_end_the_text(gpt2: EditableModel) -> None:
    ending = replace(RECIPE, targets=replace(SEARCH, append_eos=True))
    (open_,), (ended,) = encode(gpt2, RECIPE, [ONE]), encode(gpt2, ending, [ONE])
    eos = gpt2.tokenizer.eos_token_id
    for answer, longer in zip(open_.answers, ended.answers, strict=True):
        assert longer == (*answer, eos)
    assert ended.sentences[0].ids == (*open_.sentences[0].ids, open_.answers[0][-1])
    assert ended.sentences[0].position == open_.sentences[0].position


def test_what_the_tokenizer_lacks_is_refused() -> None:
    tokenizer = fast_tokenizer()
    model = build_model("gpt2", len(tokenizer))
    with pytest.raises(ConfigError, match="no chat template"):
        EditableModel.wrap(model, tokenizer, chat=True)
    tokenizer.eos_token = None
    ending = replace(RECIPE, targets=replace(SEARCH, append_eos=True))
    with pytest.raises(ConfigError, match="no eos"):
        encode(EditableModel.wrap(model, tokenizer), ending, [Request.parse("A {} is", "b", "c")])
