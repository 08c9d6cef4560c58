"""One cell of a comparison: many edits with one method, evaluated on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from alphaedit_plugin import engine
from alphaedit_plugin.config import EditorConfig, build_method
from alphaedit_plugin.data import EditData
from alphaedit_plugin.delta import Delta
from alphaedit_plugin.engine import Recipe
from alphaedit_plugin.loading import recipe_of
from alphaedit_plugin.methods import Mode, Projected
from alphaedit_plugin.metrics import Evaluation, evaluate
from alphaedit_plugin.metrics.shift import Shift, representations, shift_of, shift_prompts
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.projector import Cut, Projector, fit_projectors
from alphaedit_plugin.request import Request
from alphaedit_plugin.session import EditSession
from alphaedit_plugin.sources import load_moments, provide_projectors
from alphaedit_plugin.statistics import SecondMoment

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
    """What cells have in common and need compute only once; all on one pristine model."""

    view: EditableModel
    moments: dict[int, SecondMoment] = field(default_factory=dict)
    projectors: dict[tuple[int, str, float], Projector] = field(default_factory=dict)

    def job_of(self, config: EditorConfig) -> Job:
        """Everything that the cell of ``config`` needs.

        Raises:
            AlphaEditError: see `load_method`.
        """
        method, projectors = build_method(config.base), self.projectors_of(config)
        if config.null_space:
            method = Projected(method, projectors, config.projector.mode, config.projector.l2)
        moments = self.moments_of(config) if method.needs_moment else {}
        return Job(config, recipe_of(self.view, config, method, moments), projectors)

    def moments_of(self, config: EditorConfig) -> dict[int, SecondMoment]:
        """Second moments of the configured layers."""
        if any(layer not in self.moments for layer in config.model.layers):
            self.moments.update(load_moments(self.view, config.model))
        return {layer: self.moments[layer] for layer in config.model.layers}

    def projectors_of(self, config: EditorConfig) -> dict[int, Projector]:
        """Projectors of the configured layers: from ``projector.path``, or with its cut."""
        if config.projector.path is not None:
            return provide_projectors(self.view, config)
        cut: Cut = config.projector.cut
        keys = {layer: (layer, cut.rule.value, cut.value) for layer in config.model.layers}
        missing = [layer for layer, key in keys.items() if key not in self.projectors]
        moments = self.moments_of(config)
        fitted = fit_projectors({layer: moments[layer] for layer in missing}, cut)
        self.projectors.update({keys[layer]: projector for layer, projector in fitted.items()})
        return {layer: self.projectors[key] for layer, key in keys.items()}


def run_cell(job: Job, view: EditableModel, data: EditData, advance: Callable[[int], None]) -> Cell:
    """Edit ``compare.edits`` requests in sequence, evaluate, and put the model back.

    Args:
        job: the cell's.
        view: the pristine model.
        data: the requests, and the facts that must survive.
        advance: told after each batch how many requests were edited.
    """
    config, recipe = job.config, job.recipe
    session = EditSession(view, recipe.layers)
    points, seconds, requests = [], 0.0, data.requests[: config.compare.edits]
    prompts = shift_prompts(requests, data.retention)
    states = representations(view, prompts, view.depth - 1)
    try:
        for number, batch in enumerate(_batches(requests, config.batch_size), start=1):
            began = time.perf_counter()
            engine.apply_batch(view, session, recipe, batch)
            seconds += time.perf_counter() - began
            advance(len(batch))
            done = len(session.requests)
            every = config.compare.every
            if done < len(requests) and every and number % every == 0:
                entry = engine.finalize(session, recipe)
                points.append(measure(job, session, data))
                session.undo(0 if entry is None else 1)
        began = time.perf_counter()
        engine.finalize(session, recipe)
        seconds += time.perf_counter() - began
        points.append(measure(job, session, data, last=True))
        shift = shift_of(states, representations(view, prompts, view.depth - 1), view.depth - 1)
        layers = {n: _layer_report(session, n, p) for n, p in job.projectors.items()}
    finally:
        session.reset()
    name, settings = config.base["name"], settings_of(job)
    return Cell(name, config.null_space, settings, tuple(points), layers, seconds, shift)


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


def _batches(requests: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    for start in range(0, len(requests), size):
        yield requests[start : start + size]


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
