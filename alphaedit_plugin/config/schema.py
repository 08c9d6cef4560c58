"""The typed nodes of a configuration, behind the Hydra groups in ``conf/``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from alphaedit_plugin.config.model import ModelConfig
from alphaedit_plugin.data.conflicts import OnConflict
from alphaedit_plugin.data.settings import DataConfig
from alphaedit_plugin.nullspace.cut import Cut, Mode


class Host(str, Enum):
    """Whose update functions run: ours, or EasyEdit's."""

    native = "native"
    easyedit = "easyedit"


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
        chosen: whether ``cut`` was chosen, and is not the model's own; `as_config` says so.
    """

    cut: Cut = field(default_factory=Cut)
    l2: float = 10.0
    mode: Mode = Mode.auto
    path: str | None = None
    trust: bool = False
    chosen: bool = False


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
        on_conflict: what becomes of requests, and of earlier edits, that a later one contradicts.
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
