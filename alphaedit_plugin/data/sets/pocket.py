"""The pocket world as edit data."""

from __future__ import annotations

import random
from collections.abc import Sequence

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.base import DATA, NEIGHBOURHOOD, EditData
from alphaedit_plugin.data.pocket_world import load_world
from alphaedit_plugin.data.pocket_world.world import EditCase, Fact, World, edit_cases
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.settings import Chosen
from alphaedit_plugin.data.source import refuse_unread


def load_pocket_data(seed: int, retained: int = 300) -> EditData:
    """The world's counterfactual requests.

    Args:
        seed: shuffles the requests and picks the retained facts.
        retained: how many untouched facts of each kind are asked.

    Returns:
        Requests, and as retention two probes: ``seen`` facts, whose people are in the corpus of
        the second moments, and ``unseen`` ones, whose people are not.
    """
    world, rng = load_world(), random.Random(seed)
    requests = [_request(case) for case in edit_cases(world)]
    rng.shuffle(requests)
    retention = {
        "seen": _probe(_pick(world, "seen", retained, rng)),
        "unseen": _probe(_pick(world, "unseen", retained, rng)),
    }
    return EditData(tuple(requests), retention, name="pocket")


def _request(case: EditCase) -> Request:
    fact = case.fact
    return Request.parse(
        fact.prompt,
        fact.subject,
        case.target_new,
        ground_truth=fact.answer,
        rephrase=fact.prompts[1:],
        locality={NEIGHBOURHOOD: _probe(case.neighbourhood)},
        relation=fact.relation,
    )


def _pick(world: World, group: str, count: int, rng: random.Random) -> list[Fact]:
    facts = world.facts_of(group)  # type: ignore[arg-type]
    return rng.sample(facts, min(count, len(facts)))


def _probe(facts: Sequence[Fact]) -> Probe:
    return Probe(tuple(f.prompts[0] for f in facts), tuple(f.answer for f in facts))


def _pocket(config: Chosen) -> EditData:
    refuse_unread(config.data, ())
    return load_pocket_data(config.seed, config.compare.retention)


def _default(config: Chosen) -> EditData:
    """The pocket world's data for the pocket model; other models have none of their own."""
    if config.model.path is not None:
        raise ConfigError(
            f"no requests for {config.model.path}: give request.prompt, request.subject and "
            "request.target_new, or data=counterfact data.path=… (docs/data.md lists all data; "
            "data=pocket is about people whom only the pocket model knows)"
        )
    return _pocket(config)


DATA.register("pocket", _pocket)
DATA.register("default", _default)
