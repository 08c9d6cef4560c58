"""What every side of the benchmark is given: requests, contexts, second moments, projectors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alphaedit_plugin.data.request import SLOT, Request
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from benchmarks.models import Shape

METHODS = ("rome", "memit", "alphaedit")
# (tokens per template, number of templates): the papers' own, besides the bare prompt.
ROME_CONTEXTS = ((5, 10), (10, 10))
MEMIT_CONTEXTS = ((10, 5),)
# Random weights give keys of no special spectrum: a cut by eigenvalue would say nothing.
NULL_SHARE = 0.75
MOMENT_WEIGHT, RIDGE = 15_000.0, 10.0


@dataclass(frozen=True)
class Task:
    """One method's settings.

    Attributes:
        method: one of `METHODS`.
        layers: edited in this order.
        contexts: the context templates.
        search: of the target values.
        moment_weight: MEMIT's ``λ``.
        ridge: AlphaEdit's ``L2``.
    """

    method: str
    layers: tuple[int, ...]
    contexts: ContextTemplates
    search: TargetSettings
    moment_weight: float = MOMENT_WEIGHT
    ridge: float = RIDGE


@dataclass(frozen=True)
class Workload:
    """The model, and all that its edits need.

    Attributes:
        lm: the model.
        tasks: one per method.
        requests: with distinct subjects; as many as the largest batch.
        moments: ``C`` per layer of any task.
        projectors: one per layer that AlphaEdit edits.
    """

    lm: EditableModel
    tasks: dict[str, Task]
    requests: list[Request]
    moments: dict[int, SecondMoment]
    projectors: dict[int, Projector]

    def recipe(self, task: Task) -> Recipe:
        """The same task for our engine."""
        method: BaseMethod
        if task.method == "rome":
            method = Rome()
        else:
            method = Memit(task.moment_weight)
            if task.method == "alphaedit":
                method = AlphaEdit(method, self.projectors, ridge=task.ridge)
        return Recipe(method, task.layers, task.contexts, self.moments, targets=task.search)


def build_tasks(lm: EditableModel, shape: Shape, steps: int, seed: int) -> dict[str, Task]:
    """The papers' settings of each method, for a model of ``shape``."""
    words = Words(lm, seed)
    search = TargetSettings(steps=steps, lr=shape.lr)
    spread = words.contexts(MEMIT_CONTEXTS, bare_apart=True)
    single = words.contexts(ROME_CONTEXTS, bare_apart=False)
    return {
        "rome": Task("rome", (shape.rome_layer,), single, replace(search, clamp_norm_factor=4.0)),
        "memit": Task("memit", shape.layers, spread, search),
        "alphaedit": Task("alphaedit", shape.layers, spread, search),
    }


def collect(
    lm: EditableModel, layers: Sequence[int], tokens: int, seed: int
) -> dict[int, SecondMoment]:
    """Second moments of ``layers`` over ``tokens`` random tokens."""
    generator = random.Random(seed + 1)
    length = min(60, lm.model.config.max_position_embeddings)
    size = lm.model.config.vocab_size
    texts = [[generator.randrange(size) for _ in range(length)] for _ in range(tokens // length)]
    return collect_second_moments(lm, texts, sorted(set(layers)))


def null_cut(d_in: int) -> Cut:
    """The cut that leaves the share `NULL_SHARE` of the dimensions to edits."""
    return Cut(CutRule.rank, round((1 - NULL_SHARE) * d_in))


class Words:
    """Draws texts of made-up words, one token each.

    Args:
        lm: whose tokenizer knows the words.
        seed: of the draws.
    """

    def __init__(self, lm: EditableModel, seed: int) -> None:
        tokenizer = lm.tokenizer
        known = {token.lstrip("Ġ") for token in tokenizer.get_vocab()}
        plain = sorted(word for word in known if word.isalpha() and word.isascii())
        ids = tokenizer(plain)["input_ids"]
        self._words = [word for word, found in zip(plain, ids, strict=True) if len(found) == 1]
        self._random = random.Random(seed)

    def text(self, tokens: int) -> str:
        """So many words."""
        return " ".join(self._random.choices(self._words, k=tokens))

    def contexts(self, lengths: Sequence[tuple[int, int]], bare_apart: bool) -> ContextTemplates:
        """Templates of ``(tokens, number)``, besides the bare prompt."""
        templates = [
            f"{self.text(tokens - 1)} . {SLOT}" for tokens, number in lengths for _ in range(number)
        ]
        return ContextTemplates.of(templates, bare_apart)

    def requests(self, count: int) -> list[Request]:
        """Prompts of ten tokens or so, subjects of two or three, targets of one."""
        subjects: dict[str, None] = {}
        while len(subjects) < count:
            subjects[self.text(self._random.choice((2, 3)))] = None
        return [
            Request.parse(
                f"{self.text(4)} {SLOT} {self.text(self._random.randint(2, 4))}",
                subject,
                self.text(1),
            )
            for subject in subjects
        ]
