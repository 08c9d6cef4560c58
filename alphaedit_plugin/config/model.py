"""The typed node of ``model=…``: a model and the settings that go with it."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from alphaedit_plugin.common.validation import (
    STRICT,
    Natural,
    Positive,
    PositiveFloat,
    Text,
    must_be,
)
from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.nullspace.cut import Cut

LayerPath = Annotated[
    str,
    must_be(
        "a path with one {} for the layer's number",
        lambda path: path.count("{}") == 1 and path.replace("{}", "").count("{") == 0,
    ),
]
Dtype = Literal["float32", "bfloat16", "float16"]
Lengths = list[tuple[Positive, Positive]]  # tokens per text, number of texts


@dataclass(config=STRICT)
class ContextsConfig:
    """Context templates: given, or sampled from the model.

    Attributes:
        templates: with one ``{}`` each; ``None`` samples them.
        lengths: pairs of (tokens per text, number of texts) to sample.
        bare_apart: the bare prompt weighs as much as all others together (MEMIT), or as one of
            them (ROME).
    """

    templates: list[str] | None = None
    lengths: Lengths = field(default_factory=lambda: [(10, 5)])
    bare_apart: bool = True


@dataclass(config=STRICT)
class WrittenConfig:
    """Text that the model writes itself, sampled at temperature 1.

    Attributes:
        tokens: how many of it; ``None`` for 32 per dimension of the keys.
        length: tokens of a text at most: the start, and at least one more.
        start: the token that begins a document; ``None`` for the tokenizer's bos, or else its eos.
        seed: of the sampling.
    """

    tokens: Positive | None = None
    length: Annotated[int, Field(ge=2)] = 256
    start: str | None = None
    seed: Natural = 0


@dataclass(config=STRICT)
class MomentsConfig:
    """Where second moments come from: the first of these that is there, or the model's own text.

    Attributes:
        stats_dir: EasyEdit's folder of second moments.
        stats_dataset: the data set in the name of EasyEdit's files.
        stats_precision: the precision in their name.
        stats_samples: the number of samples in their name.
        corpus: a text, JSONL or NPY file, or a folder of them, or ``self`` for text that the model
            writes; ``corpus=…`` sets it.
        hub: a Hugging Face data set to stream.
        hub_config: its configuration.
        hub_split: its split.
        text_field: of a JSONL object or a data set: text, or token ids.
        texts: how many texts of a corpus to read; ``None`` for all.
        tokens: how many tokens of them to read; ``None`` for all.
        written: what the model writes where it writes the text itself.
        checkpoint: tokens between two checkpoints of a long collection.
        cache: keep what was collected, and projectors made from it, in the cache folder.
    """

    stats_dir: str | None = None
    stats_dataset: str = "wikipedia"
    stats_precision: str = "float32"
    stats_samples: Positive = 100_000
    corpus: str | None = None
    hub: str | None = "wikimedia/wikipedia"
    hub_config: str | None = "20231101.en"
    hub_split: str = "train"
    text_field: str = "text"
    texts: Positive | None = None
    tokens: Positive | None = 1_000_000
    written: WrittenConfig = field(default_factory=WrittenConfig)
    checkpoint: Positive = 100_000
    cache: bool = True


@dataclass(config=STRICT)
class Preset:
    """What differs between methods that edit a single layer and those that spread over several."""

    layers: list[int] = field(default_factory=list)
    steps: int = 25
    lr: float = 0.5
    weight_decay: float = 0.5
    clamp_norm_factor: float = 0.75
    context_lengths: Lengths = field(default_factory=lambda: [(10, 5)])
    bare_apart: bool = True


@dataclass(config=STRICT)
class LayoutConfig:
    """Where a model keeps what is edited; ``None`` leaves it to the model's family or structure.

    Attributes:
        block: path of a transformer block, with ``{}`` for the layer number.
        down_proj: path of the MLP's down-projection, likewise.
        final_norm: path of the norm before the language-model head.
        adds_mlp: the block adds the down-projection's output to its own as it is.
    """

    block: LayerPath | None = None
    down_proj: LayerPath | None = None
    final_norm: str | None = None
    adds_mlp: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What is set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(config=STRICT)
class ModelConfig:
    """A model and the settings that go with it.

    Attributes:
        path: folder or hub name; ``None`` is the embedded pocket model.
        gguf_file: a GGUF file in ``path``, whose weights are dequantized; ``None`` for an ordinary
            checkpoint.
        package: an installed distribution that carries the model as a GGUF file (``gguf_file`` says
            which, if several), used where ``path`` is neither a folder nor in the hub's cache.
        layers: to edit, in this order.
        layout: module paths, where the family's are not known or not right.
        dtype: of the weights.
        device: ``auto`` takes a GPU where there is one.
        device_map: spread the model over several devices with accelerate, instead of ``device``:
            ``auto``, or a device per module (``cpu`` and ``disk`` beside a GPU are offloaded).
        max_memory: for ``device_map=auto``, what to fill at most, e.g. ``{0: 20GiB, cpu: 60GiB}``.
        threads: CPU threads that a command uses at most; ``None`` leaves torch its choice.
        fact_token: which token holds the fact.
        chat: edit and ask through the tokenizer's chat template.
        separator: what is put between a prompt and its answer; ``None`` follows the prompt's script
            (a blank, or nothing).
        moment_weight: ``λ`` of MEMIT and its kin; ``None`` follows the width of the keys.
        use_moment: whether ROME takes ``u`` along ``C⁻¹k``, or along ``k``.
        target: the search for target values.
        contexts: the context templates.
        moments: where second moments come from.
        cut: the projector's default cut for this model.
        l2: AlphaEdit's ridge for this model; ``None`` follows the keys in the null space.
        presets: what ``layers`` and others take by default, by the base's span.
    """

    path: Text | None
    layers: list[int]
    gguf_file: Text | None = None
    package: Text | None = None
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    dtype: Dtype = "float32"
    device: str = "auto"
    device_map: Any = None
    max_memory: Any = None
    threads: Positive | None = None
    fact_token: FactToken = FactToken.subject_last
    chat: bool = False
    separator: str | None = None
    moment_weight: PositiveFloat | None = None
    use_moment: bool = True
    target: TargetSettings = field(default_factory=TargetSettings)
    contexts: ContextsConfig = field(default_factory=ContextsConfig)
    moments: MomentsConfig = field(default_factory=MomentsConfig)
    cut: Cut = field(default_factory=Cut)
    l2: PositiveFloat | None = None
    presets: dict[str, Preset] = field(default_factory=dict)
