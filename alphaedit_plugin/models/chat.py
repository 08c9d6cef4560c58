"""A prompt as a user's message, in the tokenizer's chat template."""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import TemplateError

SYSTEM = "You are a helpful assistant."  # EasyEdit's ``generate_texts``


def has_chat_template(tokenizer: Any) -> bool:
    """Whether `in_chat` can be asked for."""
    return bool(getattr(tokenizer, "chat_template", None))


def in_chat(tokenizer: Any, prompt: str) -> str:
    """All that the model reads before it answers, special tokens included.

    Thinking is off where the template can say so.
    """
    user = {"role": "user", "content": prompt}
    try:
        return _templated(tokenizer, [{"role": "system", "content": SYSTEM}, user])
    except TemplateError:  # some have no system message, and say so
        return _templated(tokenizer, [user])


def _templated(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    )
