"""Countries and cities as edit data, made from installed packages: see `geography`.

Every fifth country and city is never edited: their facts are retained, and are the neighbours of
the edited ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from alphaedit_plugin.common.validation import Distinct
from alphaedit_plugin.data.base import DATA, DataSet, EditData
from alphaedit_plugin.data.geography import Fact, Relation, read_facts
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.data.settings import Chosen

NEIGHBOURS = 5  # most per request
HELD_OUT = 5  # every fifth subject


@dataclass(frozen=True)
class AtlasOptions:
    """The options of the atlas.

    Attributes:
        relations: what is asked.
    """

    relations: Annotated[list[Relation], Field(min_length=1), Distinct] = field(
        default_factory=lambda: list(Relation)
    )


def load_atlas(relations: Sequence[Relation], seed: int, retained: int = 300) -> EditData:
    """Counterfactual requests about countries and cities.

    Args:
        relations: what is asked.
        seed: draws new answers and neighbours, and shuffles the requests.
        retained: at most this many retained facts of each relation.

    Returns:
        Requests, and as retention a probe of each relation.

    Raises:
        ConfigError: a package is missing.
    """
    rng = random.Random(seed)
    everything = read_facts()
    held_out = _held_out(everything)
    requests: list[Request] = []
    retention: dict[str, Probe] = {}
    for relation in Relation:  # in a fixed order, whatever the option's
        facts = [fact for fact in everything if fact.relation is relation]
        untouched = [fact for fact in facts if fact.subject in held_out]
        edited = [fact for fact in facts if fact.subject not in held_out]
        made = [_request(fact, facts, untouched, rng) for fact in edited]
        kept = rng.sample(untouched, min(retained, len(untouched)))
        if relation in relations:
            requests += made
            retention |= {relation.value: Probe.of([one.row() for one in kept])} if kept else {}
    rng.shuffle(requests)
    return EditData(tuple(requests), retention, name="atlas")


def _held_out(facts: Sequence[Fact]) -> set[str]:
    countries = sorted({fact.subject for fact in facts if fact.relation is not Relation.country})
    cities = sorted({fact.subject for fact in facts if fact.relation is Relation.country})
    return {*countries[HELD_OUT - 1 :: HELD_OUT], *cities[HELD_OUT - 1 :: HELD_OUT]}


def _request(
    fact: Fact, facts: Sequence[Fact], untouched: Sequence[Fact], rng: random.Random
) -> Request:
    """An answer that is true of others, and neighbours that are never edited.

    They share the true answer; where none does, as with capitals, they have answers of their own.
    """
    true = (fact.answer, *fact.aliases)
    others = {one.answer: one.aliases for one in facts if one.answer not in true}
    target = rng.choice(sorted(others))
    alike = [one for one in untouched if one.answer == fact.answer]
    near = alike or [one for one in untouched if one.answer != target]
    rows = [one.row() for one in rng.sample(near, min(NEIGHBOURS, len(near)))]
    prompt, *rephrase = fact.prompts()
    return Request(
        prompt,
        fact.subject,
        target,
        ground_truth=fact.answer,
        rephrase=tuple(one.replace("{}", fact.subject) for one in rephrase),
        locality={NEIGHBOURHOOD: Probe.of(rows)} if rows else {},
        accept=others[target] if fact.relation is not Relation.currency else (),
        relation=fact.relation.value,
    )


class Atlas(DataSet):
    """Countries and cities."""

    options = AtlasOptions

    def load(self, options: AtlasOptions, config: Chosen) -> EditData:
        """See `load_atlas`."""
        return load_atlas(options.relations, config.seed, config.retention)


DATA.register("atlas", Atlas())
