"""One cell of a comparison: many edits with one method, evaluated on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from alphaedit_plugin import engine
from alphaedit_plugin.compare.checkpoint import Checkpoint
from alphaedit_plugin.config import EditorConfig, ModelConfig, build_method
from alphaedit_plugin.data import EditData
from alphaedit_plugin.delta import Delta
from alphaedit_plugin.engine import Recipe
from alphaedit_plugin.loading import recipe_of
from alphaedit_plugin.methods import Mode, Projected
from alphaedit_plugin.metrics import Evaluation, evaluate
from alphaedit_plugin.metrics.shift import Shift, representations, shift_of, shift_prompts
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.projector import Projector
from alphaedit_plugin.request import Request
from alphaedit_plugin.session import EditSession
from alphaedit_plugin.sources import load_moments, provide_projectors
from alphaedit_plugin.statistics import SecondMoment

logger = logging.getLogger(__name__)

READ_BY_SOLVE = ("moment_weight", "sequential_cache")  # which AlphaEdit's closed form replaces


@dataclass(frozen=True)
class Point:
    """A cell after so many edits.

    Attributes:
        edits: so many.
        evaluation: of the edits so far, and of what must survive them.
        norms: per layer ``‖Δ‖ / ‖W0‖`` of the accumulated delta.
    """

    edits: int
    evaluation: Evaluation
    norms: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerReport:
    """What a run left in one layer.

    Attributes:
        relative_norm: ``‖Δ‖ / ‖W0‖`` of the accumulated delta.
        leakage: ``‖Δ U‖ / ‖Δ‖``; what old keys see of it. For plain cells too.
        unrounded_leakage: the same of the sum of deltas, before it was rounded into the weight.
        null_dimension: of the layer's projector.
        d_in: dimension of its keys.
    """

    relative_norm: float
    leakage: float
    unrounded_leakage: float
    null_dimension: int
    d_in: int


@dataclass(frozen=True)
class Cell:
    """One base, plain or projected, after its run.

    Attributes:
        base: the base method's name.
        null_space: whether it was projected.
        settings: what was tuned for it, for the report.
        points: evaluations, the last one after all edits and `finalize`.
        layers: what was left in each layer.
        seconds: spent editing, evaluation not counted.
        shift: how far hidden states of other prompts moved.
    """

    base: str
    null_space: bool
    settings: Mapping[str, object]
    points: tuple[Point, ...]
    layers: Mapping[int, LayerReport]
    seconds: float
    shift: Shift | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.base.upper()}{' + null space' if self.null_space else ''}"

    @property
    def final(self) -> Evaluation:
        """After all edits."""
        return self.points[-1].evaluation


@dataclass(frozen=True)
class Job:
    """What a cell needs, besides the model and the data that all cells share.

    Attributes:
        config: the cell's.
        recipe: the cell's.
        projectors: of its layers; plain cells are measured with them, too.
        before: the unedited model's evaluation on all requests, for locality.
    """

    config: EditorConfig
    recipe: Recipe
    projectors: Mapping[int, Projector]
    before: Evaluation | None = None


@dataclass
class Shared:
    """What cells have in common and need only once; all on one pristine model."""

    view: EditableModel
    moments: dict[int, SecondMoment] = field(default_factory=dict)
    projectors: dict[tuple[int, str], Projector] = field(default_factory=dict)

    def job_of(self, config: EditorConfig) -> Job:
        """Everything that the cell of ``config`` needs.

        Raises:
            AlphaEditError: see `load_method`.
        """
        method, projectors = build_method(config.base), self.projectors_of(config)
        if config.null_space:
            method = Projected(method, projectors, config.projector.mode, config.projector.l2)
        moments = self.moments_of(self.view, config.model) if method.needs_moment else {}
        return Job(config, recipe_of(self.view, config, method, moments), projectors)

    def moments_of(
        self, view: EditableModel, config: ModelConfig, layers: Sequence[int] | None = None
    ) -> dict[int, SecondMoment]:
        """As `load_moments`, held from the first time on: for a large model they are gigabytes."""
        wanted = list(config.layers if layers is None else layers)
        missing = [layer for layer in wanted if layer not in self.moments]
        if missing:
            self.moments |= load_moments(view, config, missing)
        return {layer: self.moments[layer] for layer in wanted}

    def projectors_of(self, config: EditorConfig) -> dict[int, Projector]:
        """As `provide_projectors`, held likewise; plain cells are measured with them."""
        source = repr((config.projector.path, config.projector.cut, config.projector.trust))
        keys = {layer: (layer, source) for layer in config.model.layers}
        missing = [layer for layer, key in keys.items() if key not in self.projectors]
        if missing:
            found = provide_projectors(self.view, config, missing, self.moments_of)
            self.projectors |= {keys[layer]: projector for layer, projector in found.items()}
        return {layer: self.projectors[key] for layer, key in keys.items()}


@dataclass(frozen=True)
class Standing:
    """What a cell has found out so far.

    Attributes:
        points: see `Cell`.
        seconds: likewise.
        cell: once it is done.
    """

    points: tuple[Point, ...] = ()
    seconds: float = 0.0
    cell: Cell | None = None


def run_cell(
    job: Job,
    view: EditableModel,
    data: EditData,
    advance: Callable[[int], None],
    checkpoint: Checkpoint | None = None,
) -> Cell:
    """Edit ``compare.edits`` requests in sequence, evaluate, and put the model back.

    Args:
        job: the cell's.
        view: the pristine model.
        data: the requests, and the facts that must survive.
        advance: told after each batch how many requests were edited.
        checkpoint: where the cell goes on from, and says after each batch how far it is.
    """
    session = EditSession(view, job.recipe.layers)
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
        view = self.session.view
        self.unedited = representations(view, self.prompts, view.depth - 1)

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
        if not found.cell:
            logger.warning(
                "going on after %d edits of an earlier run (compare.resume=false begins anew)",
                self.done,
            )

    def _edit(self, batch: Sequence[Request]) -> None:
        began = time.perf_counter()
        engine.apply_batch(self.session.view, self.session, self.job.recipe, batch)
        self._spend(began)
        self.advance(len(batch))
        self._save()

    def _due(self) -> bool:
        """Whether an evaluation is due, and was not made before a run was killed."""
        every = self.job.config.compare.every
        made = bool(self.standing.points) and self.standing.points[-1].edits == self.done
        batches = len(self.session.journal)
        return bool(every and batches and batches % every == 0 and not made)

    def _look(self) -> None:
        """Evaluate the model as it would be if the run ended here."""
        entry = engine.finalize(self.session, self.job.recipe)
        self._add_point()
        self.session.undo(0 if entry is None else 1)
        self._save()

    def _add_point(self, last: bool = False) -> None:
        point = measure(self.job, self.session, self.data, last)
        self.standing = replace(self.standing, points=(*self.standing.points, point))

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
        )
        if self.checkpoint is not None:
            self.checkpoint.close(Standing(cell=cell))
        return cell

    def _shift(self) -> Shift:
        """How far the last block's states are from where ``unedited`` says they were."""
        last = self.session.view.depth - 1
        states = representations(self.session.view, self.prompts, last)
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
        session.view, data, session.requests, job.config.compare.metrics, job.before, costly=last
    )
    norms = {layer: _relative_norm(session, layer) for layer in job.projectors}
    return Point(len(session.requests), evaluation, norms)


def evaluate_on(
    view: EditableModel,
    data: EditData,
    requests: Sequence[Request],
    metrics: Sequence[str] | None,
    before: Evaluation | None = None,
    costly: bool = True,
) -> Evaluation:
    """`evaluate` with everything that ``data`` has for it."""
    return evaluate(
        view, requests, data.retention, references=data.references, texts=data.texts,
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


def settings_of(job: Job) -> dict[str, object]:
    """What the cell was run with, for the report: only what it reads."""
    config, method = job.config, job.recipe.method
    own = {key: value for key, value in config.base.items() if key not in ("name", "span")}
    if isinstance(method, Projected):
        cut = next(iter(job.projectors.values())).cut
        own["cut"] = f"{cut.rule.value} {cut.value:g}"
        own["mode"] = Mode.solve.value if method.solves else Mode.post.value
        if method.solves:
            own = {key: value for key, value in own.items() if key not in READ_BY_SOLVE}
            own["l2"] = method.ridge
    own |= {"layers": list(config.model.layers), "batch_size": config.batch_size}
    if config.model.dtype != "float32":
        own["dtype"] = config.model.dtype
    tuned = config.model.tuned.side(config.null_space)
    return own | ({"tuned": " ".join(tuned)} if tuned else {})
