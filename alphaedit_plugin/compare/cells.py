"""The grid of a comparison, and the run of one cell: many edits, evaluated on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

from alphaedit_plugin import engine
from alphaedit_plugin.compare.metrics import Evaluation, evaluate
from alphaedit_plugin.config import EditorConfig, Host, load_config
from alphaedit_plugin.data import EditData
from alphaedit_plugin.delta import Delta
from alphaedit_plugin.engine import Recipe
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.methods import METHODS
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.projector import Cut, Projector, fit_projectors
from alphaedit_plugin.session import EditSession
from alphaedit_plugin.sources import load_moments
from alphaedit_plugin.statistics import SecondMoment


@dataclass(frozen=True)
class Point:
    """A cell's evaluation after so many edits."""

    edits: int
    evaluation: Evaluation


@dataclass(frozen=True)
class LayerReport:
    """What a run left in one layer.

    Attributes:
        relative_norm: ``‖Δ‖ / ‖W0‖`` of the accumulated delta.
        leakage: ``‖Δ U‖ / ‖Δ‖``; what old keys see of it. For plain cells too.
        null_dimension: of the layer's projector.
        d_in: dimension of its keys.
    """

    relative_norm: float
    leakage: float
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
    """

    base: str
    null_space: bool
    settings: Mapping[str, object]
    points: tuple[Point, ...]
    layers: Mapping[int, LayerReport]
    seconds: float

    @property
    def final(self) -> Evaluation:
        """After all edits."""
        return self.points[-1].evaluation


@dataclass
class Shared:
    """What cells have in common and need compute only once; all on one pristine model."""

    view: EditableModel
    moments: dict[int, SecondMoment] = field(default_factory=dict)
    projectors: dict[tuple[int, str, float], Projector] = field(default_factory=dict)

    def moments_of(self, config: EditorConfig) -> dict[int, SecondMoment]:
        """Second moments of the configured layers."""
        if any(layer not in self.moments for layer in config.model.layers):
            self.moments.update(load_moments(self.view, config.model))
        return {layer: self.moments[layer] for layer in config.model.layers}

    def projectors_of(self, config: EditorConfig) -> dict[int, Projector]:
        """Projectors of the configured layers, with the configured cut."""
        cut: Cut = config.projector.cut
        keys = {layer: (layer, cut.rule.value, cut.value) for layer in config.model.layers}
        missing = [layer for layer, key in keys.items() if key not in self.projectors]
        moments = self.moments_of(config)
        fitted = fit_projectors({layer: moments[layer] for layer in missing}, cut)
        self.projectors.update({keys[layer]: projector for layer, projector in fitted.items()})
        return {layer: self.projectors[key] for layer, key in keys.items()}


def grid(overrides: Sequence[str]) -> list[EditorConfig]:
    """The configurations of all cells: every base of ``compare.bases``, plain then projected.

    An override ``base.x=…`` goes to those bases that have a field ``x``.

    Raises:
        ConfigError: an override that no base takes, or one that does not compose.
    """
    own = [o for o in overrides if o.lstrip("+~").startswith("base.")]
    common = [o for o in overrides if o not in own and not o.startswith(("base=", "null_space="))]
    first = load_config(common)
    if first.host is not Host.native:
        raise ConfigError("compare runs host=native only: use alphaedit edit for other hosts")
    bases = first.compare.bases
    takes = {base: {f.name for f in fields(METHODS.get(base))} for base in bases}  # type: ignore[arg-type]
    for override in own:
        if not any(_field(override) in known for known in takes.values()):
            raise ConfigError(f"none of {', '.join(bases)} has a setting for {override!r}")
    return [
        load_config(
            [*common, f"base={base}", f"null_space={flag}"]
            + [o for o in own if _field(o) in takes[base]]
        )
        for base in bases
        for flag in ("false", "true")
    ]


def _field(override: str) -> str:
    return override.lstrip("+~").removeprefix("base.").split("=")[0]


def run_cell(
    config: EditorConfig,
    recipe: Recipe,
    shared: Shared,
    data: EditData,
    advance: Callable[[int], None],
) -> Cell:
    """Edit ``compare.edits`` requests in sequence, evaluate, and put the model back.

    Args:
        config: the cell's.
        recipe: the cell's.
        shared: the pristine model and what is known of it.
        data: the requests, and the facts that must survive.
        advance: told after each batch how many requests were edited.
    """
    view, session = shared.view, EditSession(shared.view, recipe.layers)
    points, seconds, requests = [], 0.0, data.requests[: config.compare.edits]
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
                points.append(Point(done, evaluate(view, session.requests, data.retention)))
                session.undo(0 if entry is None else 1)
        began = time.perf_counter()
        engine.finalize(session, recipe)
        seconds += time.perf_counter() - began
        points.append(Point(len(requests), evaluate(view, requests, data.retention)))
        layers = _layer_reports(session, shared.projectors_of(config))
    finally:
        session.reset()
    return Cell(
        config.base["name"], config.null_space, _settings(config), tuple(points), layers, seconds
    )


def _batches(requests: Sequence[engine.Request], size: int) -> Iterator[Sequence[engine.Request]]:
    for start in range(0, len(requests), size):
        yield requests[start : start + size]


def _layer_reports(
    session: EditSession, projectors: Mapping[int, Projector]
) -> dict[int, LayerReport]:
    reports = {}
    for layer, projector in projectors.items():
        delta, pristine = session.accumulated(layer), session.pristine(layer).float()
        reports[layer] = LayerReport(
            relative_norm=(delta.norm() / pristine.norm()).item(),
            leakage=projector.leakage(Delta(delta)),
            null_dimension=projector.null_dimension,
            d_in=projector.d_in,
        )
    return reports


def _settings(config: EditorConfig) -> dict[str, object]:
    own = {key: value for key, value in config.base.items() if key not in ("name", "span")}
    if config.null_space:
        cut = config.projector.cut
        own |= {
            "cut": f"{cut.rule.value} {cut.value:g}",
            "l2": config.projector.l2,
            "mode": config.projector.mode.value,
        }
    return own | {"layers": list(config.model.layers), "batch_size": config.batch_size}
