"""Running one cell: edit, evaluate on the way, and go on where an earlier run was ended."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from alphaedit_plugin.common.cache import Cache
from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import AlphaEditError, PatchError
from alphaedit_plugin.config.build import cpu_threads
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.config.tuned import prompt_digest
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.engine import apply_batch, finalize
from alphaedit_plugin.editing.run import Step, as_ended, run
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.experiments.cell_setup import CellSetup, abilities_of, set_up, threads_of
from alphaedit_plugin.experiments.judging import judged
from alphaedit_plugin.experiments.results import METRICS, Cell, LayerReport, Point, write_cell
from alphaedit_plugin.experiments.resuming import (
    JOURNAL,
    CellState,
    clear,
    identity_of,
    is_done,
    read_state,
    write_state,
)
from alphaedit_plugin.experiments.unedited import evaluated_once
from alphaedit_plugin.metrics.evaluation import Evaluation, evaluate
from alphaedit_plugin.metrics.generated import texts_of
from alphaedit_plugin.metrics.judge import Judge
from alphaedit_plugin.metrics.shift import representations, shift_of, shift_prompts
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.patches.sessions import open_session

logger = logging.getLogger(__name__)


def run_cell(config: ComparisonConfig, folder: Path, command: str = "") -> None:
    """Edit ``compare.edits`` requests in sequence, evaluate, and write ``metrics.json``.

    Args:
        config: the cell's.
        folder: the cell's; what an earlier run of the same cell left there is used, unless
            ``compare.resume`` is false.
        command: as typed, for the report.

    Raises:
        AlphaEditError: something is missing or does not fit, or an edit failed.
    """
    with cpu_threads(threads_of(config.model)):
        setup = set_up(config)
        identity = identity_of(setup.lm, config, setup.recipe, setup.projectors, setup.data)
        if config.compare.resume and is_done(folder, identity):
            logger.info("%s was done by an earlier run (compare.resume=false repeats it)", folder)
            os.utime(folder / METRICS)  # which tells those who watch
            return
        cell = CellRun(setup, folder, identity).to_the_end()
        write_cell(replace(cell, command=command, identity=identity), folder)
    clear(folder)


@dataclass
class CellRun:
    """A cell on its way.

    Attributes:
        folder: where its journal and state are.
        before: the evaluation of the unedited model.
        unedited: hidden states of the unedited model, ``(d_model, prompts)``.
        session: the edits so far.
    """

    setup: CellSetup
    folder: Path
    identity: str
    before: Evaluation = field(init=False)
    unedited: Tensor = field(init=False)
    state: CellState = field(init=False)
    session: EditSession = field(init=False)

    def __post_init__(self) -> None:
        self.before = self._unedited()
        self.unedited = self._states()
        if not (self.setup.config.compare.resume and self._go_on()):
            clear(self.folder)
            asked = abilities_of(self.setup.config.compare)
            able = {0: asked.measure(self.setup.lm)} if asked.tasks else {}
            self.state, self.session = CellState(abilities=able), self._open()
        self._save()

    def _open(self) -> EditSession:
        journal = self.folder / JOURNAL if self.setup.config.compare.resume else None
        return open_session(self.setup.lm, self.setup.recipe.layers, journal)

    def _go_on(self) -> bool:
        """Take up what an earlier run left, where that is of use."""
        state = read_state(self.folder, self.identity)
        if state is None:
            return False
        try:
            self.state, self.session = state, self._open()
        except PatchError as error:
            logger.warning("beginning again: %s", error)
            return False
        if self.session.ended:
            self.session.undo()
        if self.session.journal:
            logger.warning(
                "%s goes on after %d edits of an earlier run (compare.resume=false begins again)",
                self.setup.name, self._edits,
            )  # fmt: skip
        return True

    @property
    def requests(self) -> Sequence[Request]:
        """All that is edited."""
        return self.setup.data.requests

    @property
    def _edits(self) -> int:
        """How many requests were edited, or left out as no target was found."""
        return min(len(self.session.journal) * self._batch_size, len(self.requests))

    @property
    def _batch_size(self) -> int:
        return self.setup.config.batch_size

    def to_the_end(self) -> Cell:
        """Edit what remains, and evaluate."""
        apply = partial(apply_batch, search=self.setup.search)
        while self._edits < len(self.requests):
            self._look_if_due()
            # A run of its own: a later batch may contradict an earlier one (data.unique=false).
            batch = self.setup.encoded[self._edits : self._edits + self._batch_size]
            steps: Iterator[Step[object]] = run(
                self.session, self.setup.recipe, batch, len(batch), end=False, apply=apply
            )
            self._save(sum(step.seconds for step in steps))
            logger.info("%d of %d edits", self._edits, len(self.requests))
        began = time.perf_counter()
        finalize(self.session, self.setup.recipe)
        self._save(time.perf_counter() - began)
        self._measure(last=True)
        return self._judged(self._cell())

    def _judged(self, cell: Cell) -> Cell:
        """A judge that fails does not lose what was measured."""
        settings = self.setup.config.compare.generation.judge
        if settings.url is None or not cell.texts:
            return cell
        try:
            return judged(cell, Judge(settings, Cache.usable()))
        except AlphaEditError as error:
            logger.warning("the texts are not judged: %s", error)
            return cell

    def _look_if_due(self) -> None:
        """Evaluate the model as it would be if the run ended here, every few batches."""
        every, batches = self.setup.config.compare.every, len(self.session.journal)
        if every and batches % every == 0 and len(self.state.points) < batches // every:
            with as_ended(self.session, self.setup.recipe):
                self._measure()
            self._save()

    def _measure(self, last: bool = False) -> None:
        """Add a point; costly metrics are asked at the last one only."""
        evaluation = self._evaluate(self.session.requests, self.before, costly=last)
        norms = {layer: self._relative_norm(layer) for layer in self.setup.projectors}
        edits = len(self.session.requests)
        point = Point(edits, evaluation if last else evaluation.brief(), norms)
        self.state = replace(self.state, points=(*self.state.points, point))
        every = self.setup.config.compare.abilities_every
        asked = abilities_of(self.setup.config.compare)
        if asked.tasks and (last or (every and len(self.state.points) % every == 0)):
            able = {**self.state.abilities, edits: asked.measure(self.session.lm)}
            self.state = replace(self.state, abilities=able)

    def _evaluate(
        self, requests: Sequence[Request], before: Evaluation | None = None, costly: bool = True
    ) -> Evaluation:
        data, compare = self.setup.data, self.setup.config.compare
        return evaluate(
            self.setup.lm, requests, data.retention, references=data.references, texts=data.texts,
            before=before, metrics=compare.asked_metrics, costly=costly,
            generate=compare.generation,
        )  # fmt: skip

    def _unedited(self) -> Evaluation:
        """The evaluation before the first edit."""
        compare, evaluate = self.setup.config.compare, partial(self._evaluate, self.requests)
        if compare.generation.protocols:
            return evaluate()
        return evaluated_once(self.setup.lm, self.setup.data, compare.asked_metrics, evaluate)

    def _states(self) -> Tensor:
        """Hidden states of prompts that no edit is about, at the last block."""
        prompts = shift_prompts(self.requests, self.setup.data.retention)
        return representations(self.setup.lm, prompts, self.setup.lm.depth - 1)

    def _cell(self) -> Cell:
        setup = self.setup
        return Cell(
            setting=setup.setting,
            base=setup.config.base["name"],
            null_space=setup.config.null_space,
            settings=setup.settings,
            before=self.before,
            points=self.state.points,
            layers={layer: self._report(layer, p) for layer, p in setup.projectors.items()},
            seconds=self.state.seconds,
            shift=shift_of(self.unedited, self._states(), setup.lm.depth - 1),
            abilities=self.state.abilities,
            asked=tuple(map(prompt_digest, self._prompts())),
            texts=texts_of(
                self.session.requests,
                setup.data.retention,
                self.before.texts,
                self.state.points[-1].evaluation.texts,
            ),
        )

    def _prompts(self) -> Iterator[str]:
        """All that is edited, or must survive."""
        yield from (request.filled for request in self.requests)
        for probe in self.setup.data.retention.values():
            yield from probe.prompts

    def _report(self, layer: int, projector: Projector) -> LayerReport:
        return LayerReport(
            relative_norm=self._relative_norm(layer),
            leakage=projector.leakage(self.session.change(layer)),
            unrounded_leakage=projector.leakage(Delta(self.session.accumulated(layer))),
            null_dimension=projector.null_dimension,
            d_in=projector.d_in,
        )

    def _relative_norm(self, layer: int) -> float:
        pristine = self.session.pristine(layer).double().norm().item()
        return self.session.change(layer).norm / pristine

    def _save(self, seconds: float = 0.0) -> None:
        """Say how far it is, for a later run and for those who watch."""
        spent = self.state.seconds + seconds
        self.state = replace(self.state, edits=self._edits, seconds=spent)
        write_state(self.state, self.folder, self.identity)
