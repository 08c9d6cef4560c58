"""What commands read, typed: the nodes of a configuration, and the schemas made of them.

Each command validates its settings against a schema of its own; a setting that the schema lacks is
refused. pydantic validates: it takes the dataclasses that settings already are, and imports in
milliseconds.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from alphaedit_plugin.common.validation import (
    STRICT,
    Distinct,
    Natural,
    NaturalFloat,
    Positive,
    PositiveFloat,
    Text,
)
from alphaedit_plugin.config.model import ModelConfig
from alphaedit_plugin.data.conflicts import OnConflict
from alphaedit_plugin.data.settings import DataConfig
from alphaedit_plugin.metrics.asking import GENERATED, Generate, Protocol
from alphaedit_plugin.nullspace.cut import Cut, Mode


@dataclass(config=STRICT)
class CutConfig:
    """Where the null space begins.

    Attributes:
        cut: which eigenvectors the projector keeps.
        chosen: whether ``cut`` was chosen, and is not the model's own; `as_config` says so.
    """

    cut: Cut = field(default_factory=Cut)
    chosen: bool = False


@dataclass(config=STRICT)
class SourceConfig(CutConfig):
    """The null-space projector, and where it comes from.

    Attributes:
        path: a projector file to use instead of fitting one: of ``alphaedit fit``, or the
            reference's ``null_space_project.pt``.
        trust: use the file although it was made for another model.
    """

    path: str | None = None
    trust: bool = False


@dataclass(config=STRICT)
class ProjectorConfig(SourceConfig):
    """The null-space projector, and how it enters an edit.

    Attributes:
        l2: AlphaEdit's ridge, in ``solve`` mode; ``None`` follows the keys in the null space.
        moment_weight: see `AlphaEdit`.
        mode: ``auto``, ``solve`` or ``post``.
    """

    l2: PositiveFloat | None = None
    moment_weight: NaturalFloat = 0.0
    mode: Mode = Mode.auto


@dataclass(config=STRICT)
class Grids:
    """Values to try: by dotted setting, of a base's plain and of its projected cells.

    Both have as many combinations, so that neither side is tuned more than the other.
    """

    plain: dict[str, list[Any]] = field(default_factory=dict)
    null_space: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(config=STRICT)
class TuningConfig:
    """What ``alphaedit tune`` tries.

    Attributes:
        grids: by base method.
        edits: sequential edits per trial; their records are then left out of the comparison.
        retention: of ``compare.retention`` at most; where a model knows few facts, this decides how
            many are left for the comparison.
        out: folder of the trials, and of the table and the settings made of them.
    """

    grids: dict[str, Grids] = field(default_factory=dict)
    edits: Positive = 200
    retention: Natural = 100
    out: Text = "runs/tuning"


@dataclass(config=STRICT)
class FactsConfig:
    """A data set whose old answers must survive the edits of another.

    Attributes:
        name: of the data set; ``None`` for the one that is edited.
        path: its file, where it has one.
    """

    name: str | None = None
    path: Text | None = None

    @property
    def data(self) -> DataConfig | None:
        """As a ``data`` group."""
        if self.name is None:
            return None
        return DataConfig(self.name, options={} if self.path is None else {"path": self.path})


@dataclass(config=STRICT)
class AskingConfig:
    """What a model is asked.

    Attributes:
        retention: how many facts that no edit is about are asked: of each of the data set's
            retention groups, or, where it has none, of its facts that the unedited model knows.
        facts: where these facts come from, if not from the data itself.
        metrics: names of metrics to ask; ``None`` for all that the data has something for.
        text: held-out text for perplexity: a text or JSONL file.
        generate: texts that the model writes freely, and how they are judged.
    """

    retention: Natural = 300
    facts: FactsConfig = field(default_factory=FactsConfig)
    metrics: list[str] | None = None
    text: str | None = None
    generate: Generate = field(default_factory=Generate)

    @property
    def generation(self) -> Generate:
        """How texts are generated: by all protocols where only ``metrics`` asks for them."""
        named = not set(GENERATED).isdisjoint(self.metrics or ())
        protocols = self.generate.protocols or (list(Protocol) if named else [])
        return replace(self.generate, protocols=protocols)

    @property
    def asked_metrics(self) -> list[str] | None:
        """``metrics``, with those of generated texts where ``generate`` asks for them."""
        if self.metrics is None or not self.generate.protocols:
            return self.metrics
        return list(dict.fromkeys([*self.metrics, *GENERATED]))


@dataclass(config=STRICT)
class CompareConfig(AskingConfig):
    """The main job: every base, plain and projected.

    Attributes:
        bases: base methods to compare.
        edits: sequential edits per cell.
        every: evaluate after this many batches, too; 0 for only at the end.
        out: folder for the report.
        jobs: cells that run at once, each in a process of its own; ``None`` for as many as help:
            one per core for a small model on the CPU, else one.
        resume: go on where the same comparison was ended before it was done.
        abilities: tasks of lm-evaluation-harness, asked before, during and after all edits:
            sst, mrpc, cola, rte, mmlu and nli are the paper's.
        abilities_every: ask them at every n-th evaluation on the way; 0 for none.
        abilities_limit: documents per task; ``None`` for all.
        abilities_shots: examples before each question; ``None`` for as many as a task says.
        abilities_folder: of your own task files.
        share_targets: keep target values in the cache folder, for cells whose search is the same.
        tuned: ``tuned.yaml`` of ``alphaedit tune``: each cell gets what was best for its base and
            side, unless it is overridden; records that it was tuned on are left out.
        tuning: how ``alphaedit tune`` finds it.
    """

    bases: Annotated[list[str], Distinct] = field(
        default_factory=lambda: ["rome", "memit", "prune", "rect"]
    )
    edits: Positive = 200
    every: Natural = 2
    out: Text = "runs/compare"
    jobs: Positive | None = None
    resume: bool = True
    abilities: Annotated[list[str], Distinct] = field(default_factory=list)
    abilities_every: Natural = 0
    abilities_limit: Positive | None = None
    abilities_shots: Natural | None = None
    abilities_folder: str | None = None
    share_targets: bool = True
    tuned: str | None = None
    tuning: TuningConfig = field(default_factory=TuningConfig)


@dataclass(config=STRICT)
class EvaluateConfig(AskingConfig):
    """What ``alphaedit evaluate`` asks of a model that is edited already.

    Attributes:
        reference: folder or hub name of the model as it was before, to compare with; it decides
            which facts were known.
        adapter: folder of a peft adapter that is merged into ``model`` first.
        out: a JSON file for every column.
    """

    reference: Text | None = None
    adapter: Text | None = None
    out: Text | None = None


@dataclass(config=STRICT)
class SuggestConfig:
    """Proposing layers and a cut.

    Attributes:
        facts: how many facts that the model knows are traced, at most.
        samples: draws of noise per fact.
        noise: on the subject's embeddings, in their standard deviations.
        out: folder for the settings and the plot.
    """

    facts: Positive = 50
    samples: Positive = 10
    noise: PositiveFloat = 3.0
    out: Text = "runs/suggest"


@dataclass(config=STRICT)
class MethodSettings:
    """A model, a base method and the flag: what decides each other's defaults.

    Attributes:
        base: the name of the chosen base method, and the fields of its dataclass.
    """

    base: dict[str, Any]
    model: ModelConfig
    null_space: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def retention(self) -> int:
        """How many untouched facts of each kind are asked: none but in a comparison."""
        return 0


@dataclass(config=STRICT)
class ProjectorSettings(MethodSettings):
    """What a projector is read or made from.

    Attributes:
        corpus: a text for the second moments; it sets ``model.moments.corpus``.
    """

    projector: SourceConfig = field(default_factory=SourceConfig)
    corpus: Text | None = None


@dataclass(config=STRICT)
class EditingSettings(ProjectorSettings):
    """What editing takes, by an editor or in a comparison.

    Attributes:
        on_conflict: what becomes of requests, and of earlier edits, that a later one contradicts.
    """

    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch_size: Positive = 20
    on_conflict: OnConflict = OnConflict.last


@dataclass(config=STRICT)
class EditorConfig(EditingSettings):
    """What an editor reads.

    Attributes:
        journal: a folder that keeps every batch as it is applied; what it holds is applied first.
    """

    journal: Text | None = None


@dataclass(config=STRICT)
class ComparisonConfig(EditingSettings):
    """What ``alphaedit compare`` reads."""

    compare: CompareConfig = field(default_factory=CompareConfig)

    @property
    def retention(self) -> int:
        """How many untouched facts of each kind are asked."""
        return self.compare.retention


@dataclass(config=STRICT)
class SuggestionConfig(MethodSettings):
    """What ``alphaedit suggest`` reads."""

    corpus: Text | None = None
    data: DataConfig = field(default_factory=DataConfig)
    suggest: SuggestConfig = field(default_factory=SuggestConfig)


@dataclass(config=STRICT)
class EvaluationConfig(MethodSettings):
    """What ``alphaedit evaluate`` reads."""

    data: DataConfig = field(default_factory=DataConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    @property
    def retention(self) -> int:
        """How many untouched facts of each kind are asked."""
        return self.evaluate.retention
