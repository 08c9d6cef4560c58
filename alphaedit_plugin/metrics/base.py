"""What a metric is: a function of an `EvalContext` that is registered by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType

from alphaedit_plugin.common.registry import Registry
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.metrics.asking import Asked, Generate, as_asked
from alphaedit_plugin.models.decoding import Continuation, say
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.generation import draw_texts
from alphaedit_plugin.models.scoring import Answer, score, tokenise_pairs

Pair = tuple[str, str]  # a prompt and an answer
REQUESTS = "request"  # the unit of what is counted per edit


@dataclass(frozen=True)
class MetricValue:
    """One number, and what it is the mean of.

    Attributes:
        value: the number.
        unit: what ``totals`` are per: `REQUESTS`, or the name of a group of facts; values of the
            same unit are about the same requests or facts, in the same order.
        totals: per unit, the sum over its prompts; empty where the number is not a mean.
        counts: per unit, how many prompts it has.
    """

    value: float
    unit: str = ""
    totals: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


MetricValues = Mapping[str, MetricValue]  # by column


def means(
    columns: Mapping[str, Sequence[Sequence[float]]], unit: str = REQUESTS
) -> dict[str, MetricValue]:
    """The mean of each column over all of its prompts; columns without a prompt are dropped.

    Args:
        columns: for each, per unit, one number per prompt.
        unit: see `MetricValue.unit`.
    """
    return {
        column: MetricValue(
            fmean([value for group in groups for value in group]),
            unit,
            tuple(float(sum(group)) for group in groups),
            tuple(map(len, groups)),
        )
        for column, groups in columns.items()
        if any(map(len, groups))
    }


@dataclass
class EvalContext:
    """A model as it is now, and what metrics may ask it; no question is asked twice.

    Attributes:
        lm: the model.
        requests: the edits made so far.
        retention: named groups of untouched facts.
        references: the corpus of consistency's document frequencies.
        texts: held-out text.
        unedited: the tokens that the unedited model predicts after locality prompts, which are
            ``outputs`` of its context; ``None`` if unknown.
        outputs: written by ``locality_acc`` for the edited model's contexts.
        generate: how texts are generated.
        unedited_texts: what the unedited model said, which are ``texts_said`` of its context;
            ``None`` if unknown.
        texts_said: all that `said` has returned.
    """

    lm: EditableModel
    requests: Sequence[Request]
    retention: Mapping[str, Probe] = field(default_factory=lambda: MappingProxyType({}))
    references: Sequence[str] = ()
    texts: Sequence[str] = ()
    unedited: Mapping[Pair, tuple[int, ...]] | None = None
    outputs: dict[Pair, tuple[int, ...]] = field(default_factory=dict)
    generate: Generate = field(default_factory=Generate)
    unedited_texts: Mapping[Asked, Continuation] | None = None
    texts_said: dict[Asked, Continuation] = field(default_factory=dict)
    _answers: dict[Pair, Answer] = field(default_factory=dict)
    _drawn: list[list[str]] | None = None

    def answers(self, pairs: Sequence[Pair]) -> list[Answer]:
        """See `scoring.score`: the questions of one call are one batch."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._answers]
        self._answers.update(zip(new, score(self.lm, new), strict=True))
        return [self._answers[pair] for pair in pairs]

    def ask(self, groups: Sequence[Sequence[Pair]]) -> list[list[Answer]]:
        """`answers`, grouped as the questions are."""
        answers = iter(self.answers([pair for group in groups for pair in group]))
        return [[next(answers) for _ in group] for group in groups]

    def said(self, asked: Sequence[Asked]) -> list[Continuation]:
        """What the model says when it answers freely: the prompts of one call are one batch."""
        new = [one for one in dict.fromkeys(asked) if one not in self.texts_said]
        if new:
            prompts = [as_asked(self.lm.tokenizer, one) for one in new]
            texts = say(self.lm, prompts, self.generate.limit)
            self.texts_said.update(zip(new, texts, strict=True))
        return [self.texts_said[one] for one in asked]

    def drawn(self) -> list[list[str]]:
        """Per request, a text drawn from each of its generation prompts; see `draw_texts`."""
        if self._drawn is None:
            prompts = [prompt for request in self.requests for prompt in request.generation]
            texts = iter(draw_texts(self.lm, prompts))
            self._drawn = [[next(texts) for _ in request.generation] for request in self.requests]
        return self._drawn


Read = Callable[[EvalContext], MetricValues]


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        read: its values by column; none for what the data does not have.
        costly: takes longer than a forward pass over its prompts, and is asked only of the
            unedited model and the final one.
        lower: less is better.
    """

    read: Read
    costly: bool = False
    lower: bool = False


METRICS: Registry[Metric] = Registry("metric", "alphaedit_plugin.metrics")


def metric(name: str, costly: bool = False, lower: bool = False) -> Callable[[Read], Read]:
    """Register the decorated function as metric ``name``; see `Metric`.

    Raises:
        ConfigError: the name is taken.
    """

    def register(read: Read) -> Read:
        METRICS.register(name, Metric(read, costly, lower))
        return read

    return register


def lower_is_better(column: str) -> bool:
    """Whether less is better in a column of the metric that its name begins with."""
    name = column.split(".")[0]
    return name in METRICS and METRICS.get(name).lower


def pairs_of(probe: Probe) -> list[Pair]:
    """A probe's prompts with their answers."""
    return list(zip(probe.prompts, probe.answers, strict=True))


def check_scored(lm: EditableModel, request: Request) -> None:
    """Refuse a request about which a metric could not ask, before anything is edited.

    Raises:
        RequestError: see `scoring.score`.
    """
    pairs: list[Pair] = []
    answers = [request.target_new, request.ground_truth or request.target_new, *request.accept]
    for prompt in (request.filled, *request.rephrase):
        pairs += [(prompt, answer) for answer in answers]
    for probe in (*request.locality.values(), *request.portability.values()):
        for prompt, answer, others in probe.rows:  # of a neighbour the new answer is asked, too
            pairs += [(prompt, one) for one in (answer, *others, request.target_new)]
    tokenise_pairs(lm, pairs)
