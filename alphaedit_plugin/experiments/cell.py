"""Running one cell: edit, evaluate on the way, and go on where an earlier run was ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing import engine
from alphaedit_plugin.editing.encoding import encode
from alphaedit_plugin.editing.run import as_ended
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.experiments.cells import Cell, LayerReport, Point
from alphaedit_plugin.experiments.checkpoint import Checkpoint
from alphaedit_plugin.experiments.jobs import Job, abilities_of, settings_of
from alphaedit_plugin.metrics.evaluation import Evaluation, evaluate
from alphaedit_plugin.metrics.shift import Shift, representations, shift_of, shift_prompts
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.projector import Projector

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """What a cell has found out so far.

    Attributes:
        points: see `Cell`.
        seconds: likewise.
        abilities: likewise.
        cell: once it is done.
    """

    points: tuple[Point, ...] = ()
    seconds: float = 0.0
    abilities: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    cell: Cell | None = None


def run_cell(
    job: Job,
    lm: EditableModel,
    data: EditData,
    advance: Callable[[int], None],
    checkpoint: Checkpoint | None = None,
) -> Cell:
    """Edit ``compare.edits`` requests in sequence, evaluate, and put the model back.

    Args:
        job: the cell's.
        lm: the pristine model.
        data: the requests, and the facts that must survive.
        advance: told after each batch how many requests were edited.
        checkpoint: where the cell goes on from, and says after each batch how far it is.
    """
    session = EditSession(lm, job.recipe.layers)
    try:
        return _Run(job, session, data, advance, checkpoint).to_the_end()
    finally:
        session.reset()


@dataclass
class _Run:
    """A cell on its way."""

    job: Job
    session: EditSession
    data: EditData
    advance: Callable[[int], None]
    checkpoint: Checkpoint | None
    standing: Standing = field(default_factory=Standing)
    unedited: Tensor = field(init=False)

    def __post_init__(self) -> None:
        lm = self.session.lm
        self.unedited = representations(lm, self.prompts, lm.depth - 1)

    @property
    def prompts(self) -> list[str]:
        """What the shift of hidden states is read behind."""
        return shift_prompts(self.requests, self.data.retention)

    @property
    def requests(self) -> Sequence[Request]:
        return self.data.requests[: self.job.config.compare.edits]

    @property
    def done(self) -> int:
        return len(self.session.requests)

    def to_the_end(self) -> Cell:
        self._restore()
        if self.standing.cell is not None:
            return self.standing.cell
        while self.done < len(self.requests):
            if self._due():
                self._look()
            self._edit(self.requests[self.done : self.done + self.job.config.batch_size])
        return self._finish()

    def _restore(self) -> None:
        if self.checkpoint is None:
            return
        found = self.checkpoint.restore(self.session, self.requests, Standing)
        if found is None:
            return
        self.standing = found
        self.advance(len(self.requests) if found.cell else self.done)
        anew = "(compare.resume=false begins anew)"
        if found.cell:
            logger.info(
                "%s was done by an earlier run, and is not run again %s", found.cell.name, anew
            )
        else:
            logger.warning("going on after %d edits of an earlier run %s", self.done, anew)

    def _edit(self, batch: Sequence[Request]) -> None:
        began = time.perf_counter()
        recipe = self.job.recipe
        encoded = encode(self.session.lm, recipe, batch)
        engine.apply_batch(self.session, recipe, encoded, self.job.search)
        self._spend(began)
        self.advance(len(batch))
        logger.info("%d of %d edits", self.done, len(self.requests))
        self._save()

    def _due(self) -> bool:
        """Whether an evaluation is due, and was not made before a run was killed."""
        every = self.job.config.compare.every
        made = bool(self.standing.points) and self.standing.points[-1].edits == self.done
        batches = len(self.session.journal)
        return bool(every and batches and batches % every == 0 and not made)

    def _look(self) -> None:
        """Evaluate the model as it would be if the run ended here."""
        with as_ended(self.session, self.job.recipe):
            self._add_point()
        self._save()

    def _add_point(self, last: bool = False) -> None:
        point = measure(self.job, self.session, self.data, last)
        self.standing = replace(self.standing, points=(*self.standing.points, point))
        every = self.job.config.compare.abilities_every
        if last or (every and len(self.standing.points) % every == 0):
            self._ask()

    def _ask(self) -> None:
        """What the model can do besides, where that is asked."""
        asked = abilities_of(self.job.config.compare)
        if asked.tasks:
            before = self.standing.abilities or {0: self.job.abilities}
            found = {**before, self.done: asked.measure(self.session.lm)}
            self.standing = replace(self.standing, abilities=found)

    def _finish(self) -> Cell:
        began = time.perf_counter()
        engine.finalize(self.session, self.job.recipe)
        self._spend(began)
        self._add_point(last=True)
        config, standing = self.job.config, self.standing
        cell = Cell(
            base=config.base["name"],
            null_space=config.null_space,
            settings=settings_of(self.job),
            points=standing.points,
            layers={n: _layer_report(self.session, n, p) for n, p in self.job.projectors.items()},
            seconds=standing.seconds,
            shift=self._shift(),
            abilities=standing.abilities,
        )
        if self.checkpoint is not None:
            self.checkpoint.close(Standing(cell=cell))
        return cell

    def _shift(self) -> Shift:
        """How far the last block's states are from where ``unedited`` says they were."""
        last = self.session.lm.depth - 1
        states = representations(self.session.lm, self.prompts, last)
        return shift_of(self.unedited, states, last)

    def _spend(self, began: float) -> None:
        spent = time.perf_counter() - began
        self.standing = replace(self.standing, seconds=self.standing.seconds + spent)

    def _save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(self.session, self.standing)


def measure(job: Job, session: EditSession, data: EditData, last: bool = False) -> Point:
    """Evaluate the model as it is now; costly metrics only at the last point."""
    evaluation = evaluate_on(
        session.lm, data, session.requests, job.config.compare.metrics, job.before, costly=last
    )
    norms = {layer: _relative_norm(session, layer) for layer in job.projectors}
    return Point(len(session.requests), evaluation, norms)


def evaluate_on(
    lm: EditableModel,
    data: EditData,
    requests: Sequence[Request],
    metrics: Sequence[str] | None,
    before: Evaluation | None = None,
    costly: bool = True,
) -> Evaluation:
    """`evaluate` with everything that ``data`` has for it."""
    return evaluate(
        lm, requests, data.retention, references=data.references, texts=data.texts,
        before=before, metrics=metrics, costly=costly,
    )  # fmt: skip


def _layer_report(session: EditSession, layer: int, projector: Projector) -> LayerReport:
    delta = session.change(layer)
    return LayerReport(
        relative_norm=_relative_norm(session, layer),
        leakage=projector.leakage(delta),
        unrounded_leakage=projector.leakage(Delta(session.accumulated(layer))),
        null_dimension=projector.null_dimension,
        d_in=projector.d_in,
    )


def _relative_norm(session: EditSession, layer: int) -> float:
    return session.change(layer).norm / session.pristine(layer).double().norm().item()
