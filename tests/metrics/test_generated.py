"""The generated protocol: one generation per context, and figures as counted by hand."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import Probe
from alphaedit_plugin.metrics import base
from alphaedit_plugin.metrics.asking import Generate, Protocol, as_asked, protocols_of
from alphaedit_plugin.metrics.base import lower_is_better
from alphaedit_plugin.metrics.evaluation import Evaluation, evaluate
from alphaedit_plugin.metrics.generated import check_asked, texts_of
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.decoding import Continuation
from alphaedit_plugin.models.editable import EditableModel
from tests.tiny import BEGIN, CONTEXT, REQUESTS, fast_tokenizer

GENERATED = ["generated", "repetition", "unfinished"]
BARE = Generate([Protocol.bare], 8)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined and not "
    "enable_thinking %}<no thoughts>{% endif %}{% endif %}"
)
ONE = replace(
    REQUESTS[0],
    rephrase=("Ada Marsh speaks", "In Norland, Ada Marsh says"),
    locality={"neighbourhood": Probe(("Boris Lund speaks",), ("French",))},
    accept=("Castilian",),
)
TWO = REQUESTS[1]
FACTS = {"seen": Probe(("The capital of Norland is", "Norland is a"), ("Rome", "country"))}


def told(monkeypatch: pytest.MonkeyPatch, texts: dict[str, Continuation]) -> list[int]:
    """Let the model say given texts; returns how many prompts each call had."""
    calls: list[int] = []

    def say(lm: Any, prompts: list[str], limit: int) -> list[Continuation]:
        calls.append(len(prompts))
        return [texts[prompt] for prompt in prompts]

    monkeypatch.setattr(base, "say", say)
    return calls


BEFORE = {
    ONE.filled: Continuation("French.", ended=True),
    "Ada Marsh speaks": Continuation("French", ended=True),
    "In Norland, Ada Marsh says": Continuation("so", ended=True),
    "Boris Lund speaks": Continuation("French.", ended=True),
    TWO.filled: Continuation("violin", ended=True),
    "The capital of Norland is": Continuation("Rome.", ended=True),
    "Norland is a": Continuation("country.", ended=True),
}
AFTER = BEFORE | {
    ONE.filled: Continuation("Castilian.", ended=True),
    "Ada Marsh speaks": Continuation("Spanish, not French.", ended=True),
    "In Norland, Ada Marsh says": Continuation("it is Spanish Spanish Spanish", ended=False),
    "Boris Lund speaks": Continuation("Spanish.", ended=True),
    TWO.filled: Continuation("tennis player", ended=False),
    "Norland is a": Continuation("city.", ended=True),
}


def test_figures_are_shares_of_right_texts(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = told(monkeypatch, BEFORE)
    before = evaluate(gpt2, [ONE, TWO], FACTS, metrics=GENERATED, generate=BARE)
    told(monkeypatch, AFTER)
    after = evaluate(gpt2, [ONE, TWO], FACTS, metrics=GENERATED, generate=BARE, before=before)
    assert calls == [len(BEFORE)]  # once, for all three metrics
    figures = {
        name: value for name, value in after.summary.items() if name.split(".")[0] in GENERATED
    }
    assert figures == pytest.approx({
        "generated.bare.efficacy.exact": 1 / 2,
        "generated.bare.efficacy.says": 1 / 2,
        "generated.bare.efficacy.contains": 1,
        "generated.bare.generalisation.exact": 0,
        "generated.bare.generalisation.says": 1 / 2,
        "generated.bare.generalisation.contains": 1,
        "generated.bare.specificity.exact": 0,
        "generated.bare.specificity.says": 0,
        "generated.bare.specificity.contains": 0,
        "generated.bare.specificity.same": 0,
        "generated.bare.retention.seen.exact": 1 / 2,
        "generated.bare.retention.seen.says": 1 / 2,
        "generated.bare.retention.seen.contains": 1 / 2,
        "repetition.bare": 1 / 5,
        "unfinished.bare": 2 / 5,
    })  # fmt: skip
    assert "generated.bare.specificity.same" not in before.summary
    assert before.summary["generated.bare.retention.seen.exact"] == 1
    reading = after.readings["generated.bare.generalisation.says"]
    assert (reading.totals, reading.counts) == ((1.0, 0.0), (2, 0))
    assert not lower_is_better("generated.bare.efficacy.exact")
    assert lower_is_better("repetition.bare")
    assert lower_is_better("unfinished.bare")


def test_texts_are_kept_with_their_verdicts(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, BEFORE)
    before = evaluate(gpt2, [ONE, TWO], FACTS, metrics=GENERATED, generate=BARE)
    told(monkeypatch, AFTER)
    after = evaluate(gpt2, [ONE, TWO], FACTS, metrics=GENERATED, generate=BARE, before=before)
    rows = texts_of([ONE, TWO], FACTS, before.texts, after.texts)
    assert len(rows) == len(BEFORE)
    first = rows[0]
    assert (first.protocol, first.kind, first.prompt) == ("bare", "efficacy", ONE.filled)
    assert (first.answer, first.accept) == ("Spanish", ("Castilian",))
    assert (first.before, first.after, first.ended) == ("French.", "Castilian.", True)
    assert first.verdicts == {"exact": True, "says": True, "contains": True}
    shares = [row.verdicts["says"] for row in rows if row.kind == "generalisation"]
    assert fmean(shares) == after.summary["generated.bare.generalisation.says"]


def test_nothing_is_generated_unless_asked_for(
    gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = told(monkeypatch, {})
    found: Evaluation = evaluate(gpt2, [ONE], FACTS)
    assert calls == []
    assert not any(name.split(".")[0] in GENERATED for name in found.summary)
    assert found.texts == {}


def test_the_model_itself_is_asked(lm: EditableModel) -> None:
    found = evaluate(lm, [ONE], FACTS, metrics=GENERATED, generate=BARE)
    said = found.texts[Protocol.bare, ONE.filled].text
    ids = tokenise(lm.tokenizer, ONE.filled)
    with torch.no_grad():
        token = lm.model(torch.tensor([ids])).logits[0, -1].argmax().item()
    assert said.startswith(lm.tokenizer.decode([token]).strip()) or said == ""


# ---------------------------------------------------------------------------------------------
# How it is asked


def test_protocols() -> None:
    tokenizer = fast_tokenizer("bos")
    assert protocols_of(tokenizer, list(Protocol)) == [Protocol.bare, Protocol.question]
    tokenizer.chat_template = TEMPLATE
    assert protocols_of(tokenizer, list(Protocol)) == list(Protocol)
    asked = {protocol: as_asked(tokenizer, (protocol, "Who {is} it? ")) for protocol in Protocol}
    assert asked == {
        Protocol.bare: "Who {is} it?",
        Protocol.question: "Please answer the question:\n\nQ: Who {is} it?\nA:",
        Protocol.chat: f"{BEGIN}[system] You are a helpful assistant.\n[user] Who {{is}} it? \n"
        "[assistant]<no thoughts>",
    }
    ids = tokenise(tokenizer, asked[Protocol.chat])
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_template_without_system_messages() -> None:
    tokenizer = fast_tokenizer()
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refuse + TEMPLATE
    assert "[user] Who?" in as_asked(tokenizer, (Protocol.chat, "Who?"))
    assert "system" not in as_asked(tokenizer, (Protocol.chat, "Who?"))


def test_a_prompt_that_leaves_no_room_is_refused_before_any_edit(gpt2: EditableModel) -> None:
    check_asked(gpt2, ONE, BARE)
    long = replace(ONE, rephrase=("The cats " * CONTEXT,))
    check_asked(gpt2, long, Generate())
    with pytest.raises(RequestError, match="context"):
        check_asked(gpt2, long, BARE)
