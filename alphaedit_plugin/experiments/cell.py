"""Running one cell: edit, evaluate on the way, and go on where an earlier run was ended."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.config.build import cpu_threads
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing import engine
from alphaedit_plugin.editing.session import EditSession
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
from alphaedit_plugin.experiments.setup import CellSetup, abilities_of, set_up, threads_of
from alphaedit_plugin.metrics.evaluation import Evaluation, evaluate
from alphaedit_plugin.metrics.shift import representations, shift_of, shift_prompts
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.patches.sessions import open_session

logger = logging.getLogger(__name__)


def run_cell(config: EditorConfig, folder: Path, command: str = "") -> None:
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
        run = CellRun(setup, folder, identity)
        cell = run.to_the_end()
        write_cell(replace(cell, command=command, identity=identity), folder)
    clear(folder)


@dataclass
class CellRun:
    """A cell on its way.

    Attributes:
        setup: what it runs on.
        folder: where its journal and state are.
        identity: see `identity_of`.
        before: the unedited model.
        unedited: hidden states of the unedited model, ``(d_model, prompts)``.
        state: what was measured so far.
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
        self.before = self._evaluate(self.requests)
        self.unedited = self._states()
        resume = self.setup.config.compare.resume
        state = read_state(self.folder, self.identity) if resume else None
        if state is None:
            clear(self.folder)
            asked = abilities_of(self.setup.config.compare)
            able = {0: asked.measure(self.setup.lm)} if asked.tasks else {}
            state = CellState(abilities=able)
        self.state = state
        journal = self.folder / JOURNAL if resume else None
        self.session = open_session(self.setup.lm, self.setup.recipe.layers, journal)
        self.session.resume()
        self._save()
        if self.done:
            logger.warning(
                "%s goes on after %d edits of an earlier run (compare.resume=false begins again)",
                self.setup.name, self.done,
            )  # fmt: skip

    @property
    def requests(self) -> Sequence[Request]:
        """All that is edited."""
        return self.setup.data.requests

    @property
    def done(self) -> int:
        """Edits so far."""
        return len(self.session.requests)

    def to_the_end(self) -> Cell:
        """Edit what is left, and evaluate."""
        while self.done < len(self.requests):
            if self._due():
                self._look()
            self._edit(self.requests[self.done : self.done + self.setup.config.batch_size])
        began = time.perf_counter()
        engine.finalize(self.session, self.setup.recipe)
        self._spend(began)
        self._measure(last=True)
        return self._cell()

    def _edit(self, batch: Sequence[Request]) -> None:
        began = time.perf_counter()
        engine.apply_batch(self.session.lm, self.session, self.setup.recipe, batch)
        self._spend(began)
        logger.info("%d of %d edits", self.done, len(self.requests))
        self._save()

    def _due(self) -> bool:
        """Whether an evaluation is due, and was not made before a run was killed."""
        every, batches = self.setup.config.compare.every, len(self.session.journal)
        made = bool(self.state.points) and self.state.points[-1].edits == self.done
        return bool(every and batches and batches % every == 0 and not made)

    def _look(self) -> None:
        """Evaluate the model as it would be if the run ended here."""
        store, self.session.store = self.session.store, None  # no need to keep a look
        try:
            entry = engine.finalize(self.session, self.setup.recipe)
            self._measure()
            self.session.undo(0 if entry is None else 1)
        finally:
            self.session.store = store
        self._save()

    def _measure(self, last: bool = False) -> None:
        """Add a point; costly metrics are asked at the last one only."""
        evaluation = self._evaluate(self.session.requests, self.before, costly=last)
        norms = {layer: self._relative_norm(layer) for layer in self.setup.projectors}
        point = Point(self.done, evaluation if last else evaluation.brief(), norms)
        self.state = replace(self.state, points=(*self.state.points, point))
        every = self.setup.config.compare.abilities_every
        asked = abilities_of(self.setup.config.compare)
        if asked.tasks and (last or (every and len(self.state.points) % every == 0)):
            able = {**self.state.abilities, self.done: asked.measure(self.session.lm)}
            self.state = replace(self.state, abilities=able)

    def _evaluate(
        self, requests: Sequence[Request], before: Evaluation | None = None, costly: bool = True
    ) -> Evaluation:
        data, metrics = self.setup.data, self.setup.config.compare.metrics
        return evaluate(
            self.setup.lm, requests, data.retention, references=data.references, texts=data.texts,
            before=before, metrics=metrics, costly=costly,
        )  # fmt: skip

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
        )

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

    def _spend(self, began: float) -> None:
        spent = time.perf_counter() - began
        self.state = replace(self.state, seconds=self.state.seconds + spent)

    def _save(self) -> None:
        """Say how far it is, for a later run and for those who watch."""
        self.state = replace(self.state, edits=self.done)
        write_state(self.state, self.folder, self.identity)
