"""How a model is asked to answer freely: its settings, and what it then reads.

No torch is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any

from pydantic import with_config

from alphaedit_plugin.common.validation import STRICT, Distinct, Positive, Text, must_be
from alphaedit_plugin.models.boundary import stem
from alphaedit_plugin.models.chat import has_chat_template, in_chat

# As WILD asks (Yang et al. 2025, "The Mirage of Model Editing"; its ``qa_inst``).
QUESTION = "Please answer the question:\n\nQ: {}\nA:"
GENERATED = ("generated", "repetition", "unfinished")  # the metrics that read generated texts
HTTP = ("http://", "https://")


class Protocol(str, Enum):
    """What a model reads when it is asked a prompt.

    ``bare``: the prompt. ``question``: an instruction and the prompt, see `QUESTION`. ``chat``: the
    prompt as a user's message in the tokenizer's chat template, as EasyEdit's evaluation types
    ``generate-text`` and ``LLM-judge`` ask; thinking is off where the template can say so.
    """

    bare = "bare"
    question = "question"
    chat = "chat"


Asked = tuple[Protocol, str]  # the prompt is without what a protocol adds


@with_config(STRICT)
@dataclass
class JudgeSettings:
    """A language model that judges texts.

    Attributes:
        url: of an OpenAI-compatible server, ``https://api.openai.com/v1``; ``None`` for no judge.
        model: by the server's name; WILD's was gpt-4o-mini, EasyEdit's is deepseek-chat.
        key_variable: the environment variable that holds the key.
    """

    url: Annotated[str, must_be("an http(s) address", lambda u: u.startswith(HTTP))] | None = None
    model: Text = "gpt-4o-mini"
    key_variable: Text = "OPENAI_API_KEY"


@with_config(STRICT)
@dataclass
class Generate:
    """The generated protocol.

    Attributes:
        protocols: how prompts are asked; with none, nothing is generated.
        limit: tokens of a text at most; EasyEdit's are 512, WILD's 50.
        judge: a language model that is asked about every text of the edited model.
    """

    protocols: Annotated[list[Protocol], Distinct] = field(default_factory=list)
    limit: Positive = 20
    judge: JudgeSettings = field(default_factory=JudgeSettings)


def protocols_of(tokenizer: Any, protocols: list[Protocol]) -> list[Protocol]:
    """Those of ``protocols`` that the tokenizer is capable of: ``chat`` takes a template."""
    able = has_chat_template(tokenizer)
    return [one for one in protocols if able or one is not Protocol.chat]


def as_asked(tokenizer: Any, asked: Asked) -> str:
    """All that the model reads, special tokens of a chat template included."""
    protocol, prompt = asked
    if protocol is Protocol.bare:
        return stem(prompt)
    if protocol is Protocol.question:
        return QUESTION.format(stem(prompt))
    return in_chat(tokenizer, prompt)
