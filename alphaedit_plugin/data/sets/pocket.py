"""The pocket world as edit data: people whom only the pocket model knows."""

from __future__ import annotations

import random

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.base import DATA, DataSet, EditData, NoOptions
from alphaedit_plugin.data.pocket_world.assets import read_asset
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.settings import Chosen


def load_pocket_data(seed: int, retained: int = 300) -> EditData:
    """The world's counterfactual requests.

    Args:
        seed: shuffles the requests and draws the retained facts.
        retained: how many untouched facts of each kind are asked.

    Returns:
        Requests, and as retention two probes: ``seen`` facts, of people who are in the corpus of
        the second moments, and ``unseen`` ones, of people who are not.
    """
    rng = random.Random(seed)
    requests = []
    for record in read_asset("edits.json"):
        probes = {name: _probe(probe) for name, probe in record.pop("locality").items()}
        requests.append(Request(rephrase=tuple(record.pop("rephrase")), locality=probes, **record))
    rng.shuffle(requests)
    retention = {}
    for group, facts in read_asset("facts.json").items():
        rows = _probe(facts).rows
        retention[group] = Probe.of(rng.sample(rows, min(retained, len(rows))))
    return EditData(tuple(requests), retention, name="pocket")


def _probe(entry: dict[str, list[str]]) -> Probe:
    return Probe(tuple(entry["prompt"]), tuple(entry["ground_truth"]))


class Pocket(DataSet):
    """The pocket world's data, for any model."""

    def load(self, options: NoOptions, config: Chosen) -> EditData:
        """See `load_pocket_data`."""
        return load_pocket_data(config.seed, config.retention)


class Default(Pocket):
    """The pocket world's data for the pocket model; other models have no default."""

    def load(self, options: NoOptions, config: Chosen) -> EditData:
        """See `load_pocket_data`.

        Raises:
            ConfigError: another model is chosen.
        """
        if config.model.path is not None:
            raise ConfigError(
                f"no requests for {config.model.path}: give request.prompt, request.subject and "
                "request.target_new, or data=counterfact data.path=… (docs/data.md lists all "
                "data; data=pocket is about people whom only the pocket model knows)"
            )
        return super().load(options, config)


DATA.register("pocket", Pocket())
DATA.register("default", Default())
