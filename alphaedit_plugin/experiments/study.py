"""What the cells of a comparison have in common, and one of them alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from alphaedit_plugin.common.cache import Cache
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config.build import check_sources, cpu_threads, load_model
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.conflicts import OnConflict, refuse_conflicts
from alphaedit_plugin.data.corpus import corpus_from
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.selection import read_data, select_fitting
from alphaedit_plugin.editing.encoding import encode, encode_request, warn_of_shared_tokens
from alphaedit_plugin.editing.target_cache import StoredTargets
from alphaedit_plugin.experiments.cell import evaluate_on, run_cell
from alphaedit_plugin.experiments.cells import Cell
from alphaedit_plugin.experiments.checkpoint import Checkpoint, identity
from alphaedit_plugin.experiments.jobs import Job, Shared, abilities_of
from alphaedit_plugin.experiments.pool import threads_of
from alphaedit_plugin.experiments.results import Run, Setting
from alphaedit_plugin.metrics.base import check_scored
from alphaedit_plugin.metrics.evaluation import Evaluation
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import tokenizer_digest, weights_digest

logger = logging.getLogger(__name__)

STATE = "state.safetensors"


@dataclass(frozen=True)
class Study:
    """A model, data, and the cells that are to run on them.

    Attributes:
        lm: the pristine model.
        data: the requests that are edited, and the facts that must survive.
        jobs: the cells.
        before: the evaluation of the unedited model.
    """

    lm: EditableModel
    data: EditData
    jobs: list[Job]
    before: Evaluation

    @cached_property
    def model(self) -> str:
        """A hash of the model and its tokenizer; of a large one it takes seconds."""
        return weights_digest(self.lm) + tokenizer_digest(self.lm.tokenizer)

    def checkpoint(self, job: Job, path: Path) -> Checkpoint | None:
        """The file from which a cell goes on; ``None`` where it is to begin anew every time."""
        if not job.config.compare.resume:
            return None
        key = identity(self.model, job.config, job.recipe, job.projectors, self.data)
        return Checkpoint(path, key)

    def run_of(self, cells: Sequence[Cell], command: str) -> Run:
        """What ``metrics.json`` holds of these cells.

        Args:
            cells: that were run.
            command: as it was typed.
        """
        config = self.jobs[0].config
        setting = Setting(
            model=config.model.path or "pocket",
            data=self.data.name or config.data.path or config.data.name,
            conventions=self.data.conventions,
            seed=config.seed,
            edits=len(self.data.requests),
            batch_size=config.batch_size,
        )
        return Run(setting, self.before, tuple(cells), command)


def prepare(configs: Sequence[EditorConfig]) -> Study:
    """Load what ``configs`` name; every cell edits the same requests, which all of them can edit.

    Args:
        configs: of the cells: of one model and one kind of data.

    Raises:
        AlphaEditError: something is missing or does not fit; nothing has been edited then.
    """
    first = configs[0]
    data, asked = data_of(first), abilities_of(first.compare)
    asked.check()
    for config in configs:
        check_sources(config)
    shared = Shared(load_model(first.model))
    jobs = [_sharing(shared.job_of(config), shared.lm) for config in configs]
    recipes = {
        (r.contexts, r.fact_token, r.layers, r.method.one_by_one): r
        for r in (job.recipe for job in jobs)
    }

    def check(request: Request) -> None:
        for recipe in recipes.values():
            encode_request(shared.lm, recipe, request)
        check_scored(shared.lm, request)

    most = min(first.compare.edits, first.data.limit or first.compare.edits)
    data = select_fitting(data, replace(first.data, limit=most), check)
    if len(data.requests) < first.compare.edits:
        logger.warning("the data holds %d requests: editing all of them", len(data.requests))
    if first.on_conflict is OnConflict.refuse:
        refuse_conflicts(data.requests)
    for recipe in {recipe.fact_token: recipe for recipe in recipes.values()}.values():
        warn_of_shared_tokens(encode(shared.lm, recipe, data.requests))
    before = evaluate_on(shared.lm, data, data.requests, first.compare.metrics)
    able = asked.measure(shared.lm) if asked.tasks else {}
    jobs = [replace(job, before=before, abilities=able) for job in jobs]
    return Study(shared.lm, data, jobs, before)


def data_of(config: EditorConfig) -> EditData:
    """All configured data, with the held-out text of ``compare.text``, if that is given.

    Raises:
        ConfigError: see `data.read_data`; or perplexity is asked for without any text.
    """
    data = read_data(config)
    if config.compare.text is not None:
        corpus = corpus_from(Path(config.compare.text).expanduser())
        texts = tuple(text for text in corpus.texts() if isinstance(text, str))
        data = replace(data, texts=texts)
    if "perplexity" in (config.compare.metrics or ()) and not data.texts:
        raise ConfigError("perplexity needs held-out text: give compare.text=<a text file>")
    return data


def _sharing(job: Job, lm: EditableModel) -> Job:
    """The job, with a search that finds again what another cell has found, if that is wanted."""
    cache = Cache.usable() if job.config.compare.share_targets else None
    if cache is None:
        return job
    alone = job.recipe.method.one_by_one
    search = StoredTargets.of(cache, lm, job.recipe.layers, pristine_only=alone)
    return replace(job, search=search)


def run_alone(study: Study, job: Job, folder: Path) -> Cell:
    """Run a cell in this process, going on where an earlier run of it in ``folder`` was ended."""
    checkpoint = study.checkpoint(job, folder / STATE)
    with cpu_threads(threads_of(job.config, study.lm, 1)):
        return run_cell(job, study.lm, study.data, lambda _: None, checkpoint)
