"""What a cell needs: the model, a recipe, projectors, and the requests that it edits."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from alphaedit_plugin.common.cache import Cache
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.build import (
    build_method,
    check_sources,
    confined,
    load_model,
    recipe_of,
)
from alphaedit_plugin.config.model import ModelConfig
from alphaedit_plugin.config.schema import AskingConfig, CompareConfig, ComparisonConfig
from alphaedit_plugin.config.statistics import load_moments, provide_projectors
from alphaedit_plugin.config.tuned import prompt_digest, read_tuned
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.corpus import corpus_from
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.selection import read_data
from alphaedit_plugin.editing.encoding import (
    EncodedRequest,
    encode_fitting,
    warn_of_shared_tokens,
)
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.target_cache import StoredTargets
from alphaedit_plugin.editing.targets import TargetSearch, optimise_targets
from alphaedit_plugin.experiments.results import Setting
from alphaedit_plugin.experiments.resuming import digest_of
from alphaedit_plugin.methods.alphaedit import AlphaEdit, Mode
from alphaedit_plugin.metrics.abilities import Abilities
from alphaedit_plugin.metrics.asking import protocols_of
from alphaedit_plugin.metrics.base import METRICS, check_scored
from alphaedit_plugin.metrics.generated import check_asked
from alphaedit_plugin.metrics.judge import Judge
from alphaedit_plugin.metrics.known import facts_beside
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.pretrained import find_checkpoint
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment

logger = logging.getLogger(__name__)

READ_BY_SOLVE = ("moment_weight", "sequential_cache")  # which AlphaEdit's closed form replaces
KNOWN = "known"  # facts of the data that the model knows and no edit is about
SMALL_MODEL = 2**28  # bytes of weights; a larger model keeps all cores busy by itself


@dataclass(frozen=True)
class CellSetup:
    """Everything that a cell runs on.

    Attributes:
        lm: the unedited model.
        search: finds target values, or takes those that another cell has found.
        projectors: by layer; plain cells are measured with them, too.
        data: the requests that are edited, and the facts that must survive.
        encoded: the requests.
    """

    config: ComparisonConfig
    lm: EditableModel
    recipe: Recipe
    search: TargetSearch
    projectors: dict[int, Projector]
    data: EditData
    encoded: tuple[EncodedRequest, ...]

    @property
    def name(self) -> str:
        """For people."""
        return self.config.base["name"].upper() + (" + null space" * self.config.null_space)

    @property
    def setting(self) -> Setting:
        """What the cell must share with those it is compared with."""
        config, data = self.config, self.data
        return Setting(
            model=config.model.path or "pocket",
            data=data.name or config.data.name,
            conventions=data.conventions,
            seed=config.seed,
            edits=len(data.requests),
            batch_size=config.batch_size,
            requests=digest_of((data.requests, data.retention))[:16],
        )

    @property
    def settings(self) -> dict[str, object]:
        """What the cell is run with, for the report: only what it reads."""
        config, method = self.config, self.recipe.method
        read = {key: value for key, value in config.base.items() if key not in ("name", "span")}
        if isinstance(method, AlphaEdit):
            cut = next(iter(self.projectors.values())).cut
            read["cut"] = f"{cut.rule.value} {cut.value:g}"
            read["mode"] = Mode.solve.value if method.solves else Mode.post.value
            if method.solves:
                read = {key: value for key, value in read.items() if key not in READ_BY_SOLVE}
                read["l2"] = "by keys" if method.ridge is None else method.ridge
                if method.moment_weight:
                    read["moment_weight"] = method.moment_weight
            if config.projector.path is not None:
                read["projector"] = Path(config.projector.path).name
        read |= {"layers": list(config.model.layers), "batch_size": config.batch_size}
        if config.model.dtype != "float32":
            read["dtype"] = config.model.dtype
        return read


def set_up(config: ComparisonConfig) -> CellSetup:
    """Load what ``config`` names, and choose requests that the cell can edit.

    Raises:
        AlphaEditError: something is missing or does not fit; nothing has been edited then.
    """
    data = data_of(config)
    abilities_of(config.compare).check()
    check_sources(config)
    lm = load_model(config.model)
    generate = config.compare.generation
    if generate.protocols and generate.judge.url is not None:
        Judge(generate.judge).key()  # a missing one ends the run now, not after all edits
    asked = generate.protocols
    if asked != protocols_of(lm.tokenizer, asked):
        logger.warning("this tokenizer has no chat template: nothing is asked by chat")

    @cache  # the projectors and the method may both need them
    def moments() -> dict[int, SecondMoment]:
        return load_moments(lm, config.model)

    method = build_method(config.base)
    projectors = provide_projectors(lm, config, load=lambda *_: moments())
    if config.null_space:
        method = confined(method, projectors, config.projector)
    recipe = recipe_of(lm, config, method, moments() if method.needs_moment else {})
    search: TargetSearch = optimise_targets
    shared = Cache.usable() if config.compare.share_targets else None
    if shared is not None:
        search = StoredTargets.of(shared, lm, recipe.layers, pristine_only=method.one_by_one)
    data, encoded = _select(data, config, lm, recipe)
    return CellSetup(config, lm, recipe, search, projectors, data, encoded)


def _select(
    data: EditData, config: ComparisonConfig, lm: EditableModel, recipe: Recipe
) -> tuple[EditData, tuple[EncodedRequest, ...]]:
    """The requests that are edited, each asked once, and facts that must survive them."""
    settings = replace(config.data, limit=most_edits(config))
    everything = data

    def check(request: Request) -> None:
        check_scored(lm, request)
        check_asked(lm, request, config.compare.generation)

    data, encoded = encode_fitting(lm, recipe, data, settings, check)
    facts = _facts_of(config)
    if config.retention and (facts or not data.retention):
        beside = facts_beside(lm, facts or everything, data.requests, config.retention, config.seed)
        data = replace(data, retention={} if beside is None else {KNOWN: beside})
        if beside is None:
            logger.warning(
                "the model knows none of the facts that are left: retention is not measured"
            )
    if len(encoded) < config.compare.edits:
        logger.warning("the data holds %d requests: editing all of them", len(encoded))
    warn_of_shared_tokens(encoded)
    return data, encoded


def _facts_of(config: ComparisonConfig) -> EditData | None:
    """``compare.facts``, without those that ``compare.tuned`` was chosen on."""
    source = config.compare.facts.data
    if source is None:
        return None
    return _without(read_data(replace(config, data=source)), _asked(config))


def most_edits(config: ComparisonConfig) -> int:
    """How many edits are asked for."""
    return min(config.compare.edits, config.data.limit or config.compare.edits)


def data_of(config: ComparisonConfig) -> EditData:
    """All configured data that nothing was tuned on, with the held-out text of ``compare.text``.

    Raises:
        ConfigError: see `read_data`, `read_tuned` and `with_text`.
    """
    return with_text(
        read_data(config) if config.compare.tuned is None else _untuned(config),
        config.compare,
        "compare.text",
    )


def with_text(data: EditData, asking: AskingConfig, key: str) -> EditData:
    """Data with the held-out text of the setting ``key``.

    Raises:
        ConfigError: an unknown metric, or perplexity without any text.
    """
    for name in asking.metrics or ():
        METRICS.get(name)
    if asking.text is not None:
        corpus = corpus_from(Path(asking.text).expanduser())
        texts = tuple(text for text in corpus.texts() if isinstance(text, str))
        data = replace(data, texts=texts)
    if "perplexity" in (asking.metrics or ()) and not data.texts:
        raise ConfigError(f"perplexity needs held-out text: give {key}=<a text file>")
    return data


def _asked(config: ComparisonConfig) -> Collection[str]:
    """`prompt_digest` of all that ``compare.tuned`` was chosen on."""
    tuned = config.compare.tuned
    return () if tuned is None else set(read_tuned(str(tuned)).asked)


def _without(data: EditData, asked: Collection[str]) -> EditData:
    """Data without the requests and retention facts in ``asked``."""
    stay = [n for n, one in enumerate(data.requests) if prompt_digest(one.filled) not in asked]
    rest = {
        name: [row for row in probe.rows if prompt_digest(row[0]) not in asked]
        for name, probe in data.retention.items()
    }
    return replace(
        data,
        requests=tuple(data.requests[n] for n in stay),
        locations=tuple(data.locations[n] for n in stay) if data.locations else (),
        retention={name: Probe.of(rows) for name, rows in rest.items() if rows},
    )


def _untuned(config: ComparisonConfig) -> EditData:
    """Data without the requests and facts that ``compare.tuned`` was chosen on."""
    asked, count = _asked(config), config.compare.retention
    # Asking for that many more leaves enough.
    more = replace(config.compare, retention=count + len(asked) * bool(count))
    everything = read_data(replace(config, compare=more))
    data = _without(everything, asked)
    logger.info(
        "%d requests were used for tuning: left out",
        len(everything.requests) - len(data.requests),
    )
    enough = {name: Probe.of(probe.rows[:count]) for name, probe in data.retention.items()}
    return replace(data, retention=enough if count else {})


def abilities_of(config: CompareConfig) -> Abilities:
    """The tasks of lm-evaluation-harness that the model is asked."""
    return Abilities(
        tuple(config.abilities),
        config.abilities_folder,
        config.abilities_limit,
        config.abilities_shots,
    )


def on_cpu(config: ModelConfig) -> bool:
    """Whether the model will be on the CPU alone."""
    if config.device_map is not None:
        return False
    return config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())


def is_small(config: ModelConfig) -> bool:
    """Whether copies of the model cost little, and one core is enough for each: a CPU model's.

    Read from the files, before any model is loaded: the pocket model is small, and so is a folder
    or an installed package with less than `SMALL_MODEL` bytes of weights. What a hub name stands
    for is not looked up.
    """
    if not on_cpu(config):
        return False
    if config.path is None:
        return True
    checkpoint = find_checkpoint(config.path, config.gguf_file, config.package)
    folder, file = Path(checkpoint.path), checkpoint.gguf_file
    weights = (
        [*folder.glob("*.safetensors"), *folder.glob("*.bin")] if file is None else [folder / file]
    )
    sizes = [one.stat().st_size for one in weights if one.is_file()]
    return 0 < sum(sizes) <= SMALL_MODEL


def threads_of(config: ModelConfig) -> int | None:
    """Threads of a cell.

    One for a small model: sums come out the same to the bit however many cells run at once.
    """
    return 1 if is_small(config) else config.threads
