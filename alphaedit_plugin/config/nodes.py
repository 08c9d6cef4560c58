"""The typed nodes of a configuration, behind the Hydra groups in ``conf/``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from alphaedit_plugin.conflicts import OnConflict
from alphaedit_plugin.data.zsre import Target
from alphaedit_plugin.methods import Mode
from alphaedit_plugin.projector import Cut
from alphaedit_plugin.prompts import FactToken
from alphaedit_plugin.targets import TargetSettings


class Host(str, Enum):
    """Whose update functions run: ours, or EasyEdit's."""

    native = "native"
    easyedit = "easyedit"


@dataclass
class ContextsConfig:
    """Context templates: given, or sampled from the model.

    Attributes:
        templates: with one ``{}`` each; ``None`` samples them.
        lengths: pairs of (tokens per text, number of texts) to sample.
        bare_apart: the bare prompt weighs as much as all others together (MEMIT), or as one of
            them (ROME).
    """

    templates: list[str] | None = None
    lengths: list[list[int]] = field(default_factory=lambda: [[10, 5]])
    bare_apart: bool = True


@dataclass
class MomentsConfig:
    """Where second moments come from: the first of these that is there.

    Attributes:
        stats_dir: EasyEdit's folder of second moments.
        stats_dataset: the data set in the name of EasyEdit's files.
        stats_precision: the precision in their name.
        stats_samples: the number of samples in their name.
        corpus: a text, JSONL or NPY file, or a folder of them; ``corpus=…`` sets it.
        hub: a Hugging Face data set to stream.
        hub_config: its configuration.
        hub_split: its split.
        text_field: of a JSONL object or a data set: text, or token ids.
        texts: how many texts of a corpus to read; ``None`` for all.
        tokens: how many tokens of them to read; ``None`` for all.
        checkpoint: tokens between two checkpoints of a long collection.
        cache: keep what was collected, and projectors made from it, in the cache folder.
    """

    stats_dir: str | None = None
    stats_dataset: str = "wikipedia"
    stats_precision: str = "float32"
    stats_samples: int = 100_000
    corpus: str | None = None
    hub: str | None = "wikimedia/wikipedia"
    hub_config: str | None = "20231101.en"
    hub_split: str = "train"
    text_field: str = "text"
    texts: int | None = None
    tokens: int | None = 1_000_000
    checkpoint: int = 100_000
    cache: bool = True


@dataclass
class Preset:
    """What differs between methods that edit a single layer and those that spread over several."""

    layers: list[int] = field(default_factory=list)
    steps: int = 25
    lr: float = 0.5
    weight_decay: float = 0.5
    clamp_norm_factor: float = 0.75
    context_lengths: list[list[int]] = field(default_factory=lambda: [[10, 5]])
    bare_apart: bool = True


@dataclass
class TunedConfig:
    """Overrides that apply to one side only, so that both are at their best on a model.

    Attributes:
        plain: where ``null_space`` is false.
        null_space: where it is true.
    """

    plain: list[str] = field(default_factory=list)
    null_space: list[str] = field(default_factory=list)

    def side(self, null_space: bool) -> list[str]:
        """The overrides of one side."""
        return self.null_space if null_space else self.plain


@dataclass
class LayoutConfig:
    """Where a model keeps what is edited; ``None`` leaves it to the model's family or structure.

    Attributes:
        block: path of a transformer block, with ``{}`` for the layer number.
        down_proj: path of the MLP's down-projection, likewise.
        final_norm: path of the norm before the language-model head.
        adds_mlp: the block adds the down-projection's output to its own as it is.
    """

    block: str | None = None
    down_proj: str | None = None
    final_norm: str | None = None
    adds_mlp: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What is set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass
class ModelConfig:
    """A model and the settings that go with it.

    Attributes:
        path: folder or hub name; ``None`` is the embedded pocket model.
        layers: to edit, in this order.
        layout: module paths, where the family's are not known or not right.
        dtype: of the weights: float32, bfloat16 or float16.
        device: ``auto`` takes a GPU where there is one.
        device_map: spread the model over several devices with accelerate, instead of ``device``:
            ``auto``, or a device per module (``cpu`` and ``disk`` beside a GPU are offloaded).
        max_memory: for ``device_map=auto``, what to fill at most, e.g. ``{0: 20GiB, cpu: 60GiB}``.
        threads: CPU threads that a command uses at most; ``None`` leaves torch its choice.
        fact_token: which token holds the fact.
        moment_weight: ``λ`` of MEMIT and its kin.
        use_moment: whether ROME takes ``u`` along ``C⁻¹k``, or along ``k``.
        target: the search for target values.
        contexts: the context templates.
        moments: where second moments come from.
        cut: the projector's default cut for this model.
        l2: AlphaEdit's ridge for this model.
        presets: what ``layers`` and others take by default, by the base's span.
        tuned: overrides for plain and for projected editing; `load_config` keeps those here that
            it applied.
    """

    path: str | None = MISSING
    layers: list[int] = MISSING
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    dtype: str = "float32"
    device: str = "auto"
    device_map: Any = None
    max_memory: Any = None
    threads: int | None = None
    fact_token: FactToken = FactToken.subject_last
    moment_weight: float = 15_000.0
    use_moment: bool = True
    target: TargetSettings = field(default_factory=TargetSettings)
    contexts: ContextsConfig = field(default_factory=ContextsConfig)
    moments: MomentsConfig = field(default_factory=MomentsConfig)
    cut: Cut = field(default_factory=Cut)
    l2: float = 10.0
    presets: dict[str, Preset] = field(default_factory=dict)
    tuned: TunedConfig = field(default_factory=TunedConfig)


@dataclass
class ProjectorConfig:
    """The null-space projector.

    Attributes:
        cut: which eigenvectors it keeps.
        l2: AlphaEdit's ridge, in ``solve`` mode.
        mode: ``auto``, ``solve`` or ``post``.
        path: a projector file to use instead of fitting one: of ``alphaedit fit``, or the
            reference's ``null_space_project.pt``.
        trust: use the file although it was made for another model.
    """

    cut: Cut = field(default_factory=Cut)
    l2: float = 10.0
    mode: Mode = Mode.auto
    path: str | None = None
    trust: bool = False


@dataclass
class DataConfig:
    """Which facts are edited.

    Attributes:
        name: a registered kind of data.
        path: its file, where it has one.
        target: which answer of a zsRE record is edited in; zsRE needs a choice.
        references: CounterFact's reference texts (``attribute_snippets.json``), for consistency.
        shuffle_seed: shuffles the records; ``None`` leaves them as they are.
        unique: drop records that ask again what an earlier one asks: of the same subject, the
            same relation or prompt.
        offset: skip so many usable records.
        limit: at most this many requests; ``None`` for all.
    """

    name: str = "default"
    path: str | None = None
    target: Target | None = None
    references: str | None = None
    shuffle_seed: int | None = None
    unique: bool = True
    offset: int = 0
    limit: int | None = None


@dataclass
class RequestConfig:
    """One request given on the command line, instead of ``data``."""

    prompt: str | None = None
    subject: str | None = None
    target_new: str | None = None


@dataclass
class CompareConfig:
    """The main job: every base, plain and projected.

    Attributes:
        bases: base methods to compare.
        edits: sequential edits per cell.
        retention: how many untouched facts of each kind are asked.
        every: evaluate after this many batches, too; 0 for only at the end.
        out: folder for the report.
        metrics: names of metrics to ask; ``None`` for all that the data has something for.
        text: held-out text for perplexity: a text or JSONL file.
        jobs: cells that run at once, each in a process of its own; ``None`` for as many as help:
            one per core for a small model on the CPU, else one.
        resume: go on where the same comparison was ended before it was done.
        abilities: tasks of lm-evaluation-harness, asked before, during and after all edits:
            sst, mrpc, cola, rte, mmlu and nli are the paper's.
        abilities_every: ask them at every so many of the evaluations on the way; 0 for none.
        abilities_limit: documents per task; ``None`` for all.
        abilities_shots: examples before each question; ``None`` for as many as a task says.
        abilities_folder: of task files of one's own.
        share_targets: keep target values in the cache folder, for cells whose search is the same.
    """

    bases: list[str] = field(default_factory=lambda: ["rome", "memit", "prune", "rect"])
    edits: int = 200
    retention: int = 300
    every: int = 2
    out: str = "runs/compare"
    metrics: list[str] | None = None
    text: str | None = None
    jobs: int | None = None
    resume: bool = True
    abilities: list[str] = field(default_factory=list)
    abilities_every: int = 0
    abilities_limit: int | None = None
    abilities_shots: int | None = None
    abilities_folder: str | None = None
    share_targets: bool = True


@dataclass
class FitConfig:
    """Making a projector file.

    Attributes:
        out: the file.
        dtype: its basis: float32, or float16 at half the size.
        converge: stop once the halves of what was read disagree less than this about the
            subspace (root mean square sine of the angles between them, weighted by eigenvalue);
            ``None`` reads everything.
    """

    out: str = "projector.safetensors"
    dtype: str = "float32"
    converge: float | None = None


class ExportFormat(str, Enum):
    """A LoRA adapter, or a whole checkpoint."""

    peft = "peft"
    full = "full"


@dataclass
class ExportConfig:
    """Edits for other programs.

    Attributes:
        format: see `ExportFormat`.
        out: a new folder.
        rank: of an adapter, at most; ``None`` for all that the edits have.
    """

    format: ExportFormat = ExportFormat.peft
    out: str = "exported"
    rank: int | None = None


@dataclass
class SuggestConfig:
    """Proposing layers and a cut.

    Attributes:
        facts: how many facts that the model knows are traced, at most.
        samples: draws of noise per fact.
        noise: on the subject's embeddings, in their standard deviations.
        out: folder for the settings and the plot.
    """

    facts: int = 50
    samples: int = 10
    noise: float = 3.0
    out: str = "runs/suggest"


@dataclass
class EditorConfig:
    """Everything a command reads; ``base`` holds the fields of the chosen base method.

    Attributes:
        on_conflict: what becomes of requests that contradict a later one of the same call.
        save: a folder for the edited model.
        patch: a file for the edits alone.
        journal: a folder that keeps every batch as it is applied; what it holds is applied first.
        force: apply a patch although it was made for another model or other weights.
    """

    base: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    request: RequestConfig = field(default_factory=RequestConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    suggest: SuggestConfig = field(default_factory=SuggestConfig)
    corpus: str | None = None
    null_space: bool = True
    host: Host = Host.native
    seed: int = 0
    batch_size: int = 20
    on_conflict: OnConflict = OnConflict.last
    save: str | None = None
    patch: str | None = None
    journal: str | None = None
    force: bool = False
