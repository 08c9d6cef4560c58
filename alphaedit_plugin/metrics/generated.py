"""What the model says when it answers freely, and whether it is right: nothing is fed in.

Greedy decoding up to a natural stop (`decoding.say`), asked by the protocols of
`EvalContext.generate`; the texts are generated once for all metrics. Teacher-forced accuracies feed
the answer's own tokens and cut at its length: both flatter (Yang et al. 2025, "The Mirage of Model
Editing").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request, Row
from alphaedit_plugin.metrics.asking import Asked, Generate, Protocol, as_asked, protocols_of
from alphaedit_plugin.metrics.base import (
    REQUESTS,
    EvalContext,
    MetricValue,
    MetricValues,
    means,
    metric,
)
from alphaedit_plugin.metrics.matching import MATCHERS, degenerates, verdicts
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.decoding import Continuation
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.scoring import check_room

EDITS, PARAPHRASES, NEIGHBOURS = "efficacy", "generalisation", "specificity"
RETENTION = "retention."

Texts = Mapping[Asked, Continuation]


@dataclass(frozen=True)
class GeneratedText:
    """A prompt, what the model said before and after the edits, and who found it right.

    Attributes:
        protocol: how it was asked.
        kind: ``efficacy``, ``generalisation``, ``specificity`` or ``retention.<group>``.
        answer: what is right after the edits.
        accept: other answers that are as right.
        before: of the unedited model.
        after: of the edited one.
        ended: whether ``after`` stopped by itself, not at the limit.
        verdicts: about ``after``, by matcher.
    """

    protocol: str
    kind: str
    prompt: str
    answer: str
    accept: tuple[str, ...]
    before: str
    after: str
    ended: bool
    verdicts: Mapping[str, bool] = field(default_factory=dict)


@metric("generated", costly=True)
def generated(context: EvalContext) -> MetricValues:
    """Share of generated texts that are right: ``generated.<protocol>.<kind>.<matcher>``.

    Kinds are the edits (efficacy), their paraphrases (generalisation), neighbours (specificity,
    with their true answers) and untouched facts (``retention.<group>``); matchers those of
    `matching.MATCHERS`, and an alias counts as right. ``specificity.same`` is the share of texts
    after neighbours that the edits left unchanged.
    """
    columns: dict[str, MetricValue] = {}
    for protocol, kind, groups in _asked(context):
        said = context.said([(protocol, row[0]) for group in groups for row in group])
        judged = iter(map(_verdicts, said, [row for group in groups for row in group]))
        by_unit = [[next(judged) for _ in group] for group in groups]
        unit = kind if kind.startswith(RETENTION) else REQUESTS
        columns |= means(
            {
                f"generated.{protocol.value}.{kind}.{name}": [
                    [float(one[name]) for one in group] for group in by_unit
                ]
                for name in MATCHERS
            },
            unit,
        )
        if kind == NEIGHBOURS and context.unedited_texts is not None:
            same = [[_unchanged(context, (protocol, row[0])) for row in g] for g in groups]
            columns |= means({f"generated.{protocol.value}.{kind}.same": same})
    return columns


@metric("repetition", costly=True, lower=True)
def repetition(context: EvalContext) -> MetricValues:
    """Share of generated texts that degenerate, by protocol; see `matching.degenerates`."""
    return _shares(context, "repetition", lambda said: degenerates(said.text))


@metric("unfinished", costly=True, lower=True)
def unfinished(context: EvalContext) -> MetricValues:
    """Share of generated texts that hit the limit of tokens, by protocol."""
    return _shares(context, "unfinished", lambda said: not said.ended)


def _shares(
    context: EvalContext, name: str, holds: Callable[[Continuation], bool]
) -> dict[str, MetricValue]:
    """Over a request's edited, rephrased and neighbouring prompts."""
    columns: dict[str, list[list[float]]] = {}
    for protocol, kind, groups in _asked(context):
        if kind.startswith(RETENTION):
            continue
        column = columns.setdefault(f"{name}.{protocol.value}", [[] for _ in groups])
        for values, group in zip(column, groups, strict=True):
            said = context.said([(protocol, row[0]) for row in group])
            values += [float(holds(one)) for one in said]
    return means(columns)


def sections(
    requests: Sequence[Request], retention: Mapping[str, Probe]
) -> dict[str, list[list[Row]]]:
    """What is asked, by kind: per request, or per untouched fact, its prompts and answers."""
    edits = [[(r.filled, r.target_new, r.accept)] for r in requests]
    again = [[(prompt, r.target_new, r.accept) for prompt in r.rephrase] for r in requests]
    near = [r.locality[NEIGHBOURHOOD].rows if NEIGHBOURHOOD in r.locality else [] for r in requests]
    facts = {f"{RETENTION}{name}": [[row] for row in p.rows] for name, p in retention.items()}
    return {EDITS: edits, PARAPHRASES: again, NEIGHBOURS: near, **facts}


def texts_of(
    requests: Sequence[Request], retention: Mapping[str, Probe], before: Texts, after: Texts
) -> tuple[GeneratedText, ...]:
    """All that was asked of the unedited and of the edited model, in the order of ``after``."""
    rows = []
    for protocol in dict.fromkeys(protocol for protocol, _ in after):
        for kind, groups in sections(requests, retention).items():
            for prompt, answer, others in (row for group in groups for row in group):
                said = after[protocol, prompt]
                rows.append(
                    GeneratedText(
                        protocol.value, kind, prompt, answer, others,
                        before[protocol, prompt].text, said.text, said.ended,
                        verdicts(said.text, [answer, *others]),
                    )
                )  # fmt: skip
    return tuple(rows)


def check_asked(lm: EditableModel, request: Request, generate: Generate) -> None:
    """Refuse a request that leaves no room for a text, before anything is edited.

    Raises:
        RequestError: a prompt, with what its protocol adds, fills the model's context.
    """
    for protocol in protocols_of(lm.tokenizer, generate.protocols):
        for groups in sections([request], {}).values():
            for prompt, _, _ in (row for group in groups for row in group):
                ids = tokenise(lm.tokenizer, as_asked(lm.tokenizer, (protocol, prompt)))
                check_room(lm, prompt, ids, 0)


def _asked(context: EvalContext) -> list[tuple[Protocol, str, list[list[Row]]]]:
    """Per protocol and kind what is asked, after all texts were generated in one batch."""
    protocols = protocols_of(context.lm.tokenizer, context.generate.protocols)
    kinds = sections(context.requests, context.retention) if protocols else {}
    asked = [(p, kind, groups) for p in protocols for kind, groups in kinds.items()]
    context.said([(p, row[0]) for p, _, groups in asked for group in groups for row in group])
    return asked


def _verdicts(said: Continuation, row: Row) -> dict[str, bool]:
    _, answer, others = row
    return verdicts(said.text, [answer, *others])


def _unchanged(context: EvalContext, asked: Asked) -> float:
    assert context.unedited_texts is not None
    (said,) = context.said([asked])
    return float(context.unedited_texts[asked].text == said.text)
