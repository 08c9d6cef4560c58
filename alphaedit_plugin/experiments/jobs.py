"""What the cells of a comparison need, and what of it they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alphaedit_plugin.config.build import recipe_of
from alphaedit_plugin.config.checks import build_method
from alphaedit_plugin.config.model import ModelConfig
from alphaedit_plugin.config.schema import CompareConfig, EditorConfig
from alphaedit_plugin.config.statistics import load_moments, provide_projectors
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.targets import TargetSearch, optimise_targets
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.metrics.abilities import Abilities
from alphaedit_plugin.metrics.evaluation import Evaluation
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.cut import Mode
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment

READ_BY_SOLVE = ("moment_weight", "sequential_cache")  # which AlphaEdit's closed form replaces


@dataclass(frozen=True)
class Job:
    """What a cell needs, besides the model and the data that all cells share.

    Attributes:
        config: the cell's.
        recipe: the cell's.
        projectors: of its layers; plain cells are measured with them, too.
        search: for target values, shared with other cells where that is wanted.
        before: the unedited model's evaluation on all requests, for locality.
        abilities: what the unedited model can do besides; empty where nobody asks.
    """

    config: EditorConfig
    recipe: Recipe
    projectors: Mapping[int, Projector]
    search: TargetSearch = optimise_targets
    before: Evaluation | None = None
    abilities: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Shared:
    """What cells have in common and need only once; all on one pristine model."""

    lm: EditableModel
    moments: dict[int, SecondMoment] = field(default_factory=dict)
    projectors: dict[tuple[int, str], Projector] = field(default_factory=dict)

    def job_of(self, config: EditorConfig) -> Job:
        """Everything that the cell of ``config`` needs.

        Raises:
            AlphaEditError: see `load_method`.
        """
        method, projectors = build_method(config.base), self.projectors_of(config)
        if config.null_space:
            method = AlphaEdit(method, projectors, config.projector.mode, config.projector.l2)
        moments = self.moments_of(self.lm, config.model) if method.needs_moment else {}
        return Job(config, recipe_of(self.lm, config, method, moments), projectors)

    def moments_of(
        self, lm: EditableModel, config: ModelConfig, layers: Sequence[int] | None = None
    ) -> dict[int, SecondMoment]:
        """As `load_moments`, held from the first time on: for a large model they are gigabytes."""
        wanted = list(config.layers if layers is None else layers)
        missing = [layer for layer in wanted if layer not in self.moments]
        if missing:
            self.moments |= load_moments(lm, config, missing)
        return {layer: self.moments[layer] for layer in wanted}

    def projectors_of(self, config: EditorConfig) -> dict[int, Projector]:
        """As `provide_projectors`, held likewise; plain cells are measured with them."""
        source = repr((config.projector.path, config.projector.cut, config.projector.trust))
        keys = {layer: (layer, source) for layer in config.model.layers}
        missing = [layer for layer, key in keys.items() if key not in self.projectors]
        if missing:
            found = provide_projectors(self.lm, config, missing, self.moments_of)
            self.projectors |= {keys[layer]: projector for layer, projector in found.items()}
        return {layer: self.projectors[key] for layer, key in keys.items()}


def settings_of(job: Job) -> dict[str, object]:
    """What the cell was run with, for the report: only what it reads."""
    config, method = job.config, job.recipe.method
    own = {key: value for key, value in config.base.items() if key not in ("name", "span")}
    if isinstance(method, AlphaEdit):
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


def abilities_of(config: CompareConfig) -> Abilities:
    """What else the model is asked."""
    return Abilities(
        tuple(config.abilities),
        config.abilities_folder,
        config.abilities_limit,
        config.abilities_shots,
    )
