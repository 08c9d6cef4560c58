"""ROME's known facts (``known_1000.json``), which GPT-2 XL answers right.

Meng et al. 2022, https://rome.baulab.info. They have no new answer: it is the ``attribute`` of
another record of the same relation, drawn with the run's seed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from alphaedit_plugin.common.errors import ConfigError, RequestError
from alphaedit_plugin.data.base import DATA, Dropped, EditData
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import Request, split_slot
from alphaedit_plugin.data.settings import Chosen
from alphaedit_plugin.data.source import FileData, FileOptions

Truths = Mapping[str, Mapping[str, set[str]]]  # by relation and subject


def read_known(record: Fields, options: FileOptions) -> list[Request]:
    """The fact of one record, still with the true answer as its target.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
    """
    subject, prompt, truth = (record.text(name) for name in ("subject", "prompt", "attribute"))
    template = record.maybe("template") or ""
    start = subject.join(split_slot(template))
    # The template has the subject's place; some prompts go on, as GPT-2 XL did, to the answer.
    if template.count("{}") == 1 and prompt.startswith(start):
        prompt = template + prompt[len(start) :]
    return [
        Request.parse(
            prompt,
            subject,
            truth,
            template=True,
            ground_truth=truth,
            case_id=record.label("known_id") or str(record.number),
            relation=record.text("relation_id", "template"),
        )
    ]


class Known(FileData):
    """The facts with counterfactual answers."""

    def load(self, options: FileOptions, config: Chosen) -> EditData:
        """See `FileData.load`; a fact without another answer to its relation is dropped."""
        data = super().load(options, config)
        truths = _truths(data)
        chosen, dropped = [], list(data.dropped)
        for request, location in zip(data.requests, data.locations, strict=True):
            try:
                chosen.append((_counterfactual(request, truths, config.seed), location))
            except RequestError as error:
                dropped.append(Dropped(location, str(error)))
        if not chosen:
            raise ConfigError(f"{options.path} has nothing to edit: {dropped[0].reason}")
        requests, locations = zip(*chosen, strict=True)
        return replace(data, requests=requests, locations=locations, dropped=tuple(dropped))


def _truths(data: EditData) -> Truths:
    truths: defaultdict[str, defaultdict[str, set[str]]]
    truths = defaultdict(lambda: defaultdict(set))
    for request in data.requests:
        truths[str(request.relation)][request.subject].add(request.target_new)
    return truths


def _counterfactual(request: Request, truths: Truths, seed: int) -> Request:
    """``request`` with an answer that is true of others, but in no record of its subject."""
    relation = str(request.relation)
    answers = set().union(*truths[relation].values()) - truths[relation][request.subject]
    if not answers:
        raise RequestError(f"its relation {relation!r} has no other answer")
    # By the fact, not the record's number: repeated records get the same answer.
    draw = random.Random(f"{seed} {relation} {request.subject}")
    return replace(request, target_new=draw.choice(sorted(answers)))


DATA.register(
    "known",
    Known("known_1000.json", "https://rome.baulab.info/data/dsets/known_1000.json", read_known),
)
