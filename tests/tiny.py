"""Tiny random models and tokenizers, made on the spot: no download, no training."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizer,
    PreTrainedTokenizerFast,
)

from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.editing.encoding import encode
from alphaedit_plugin.editing.engine import apply_batch
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.editing.targets import Targets, optimise_targets
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.models.activations import Site
from alphaedit_plugin.models.boundary import continuations
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import ContextTemplates

FAMILIES = ("gpt2", "gptj", "llama")
DEPTH = 4
CONTEXT = 64
END, BEGIN, UNKNOWN = "<end>", "<begin>", "<unk>"

TEXTS = [
    "The mother tongue of Ada Marsh is French, and Ada Marsh speaks Spanish.",
    "Boris Lund plays the violin; he said that Boris Lund plays tennis.",
    "The capital of Norland is Rome. Norland is a country.",
    "Clara Weiss works as a violin player in Norland, because people said so.",
    "The cats and the cats know Zoë Müller. I think that 北京 is a city.",
    "It is known that Today people speak French, German and Spanish.",
]

REQUESTS = [
    Request.parse("The mother tongue of {} is", "Ada Marsh", "Spanish"),
    Request.parse("{} plays the", "Boris Lund", "tennis"),
    Request.parse("The capital of {} is", "Norland", "Rome"),
    Request.parse("It is known that {} works as a", "Clara Weiss", "violin player"),
]
CONTEXTS = ContextTemplates.of(["He said that. {}", "Today people think so. {}"])
SEARCH = TargetSettings(steps=4, lr=0.2)


def fast_tokenizer(kind: str = "byte_level") -> PreTrainedTokenizerFast:
    """A BPE tokenizer trained on `TEXTS`.

    Args:
        kind: ``byte_level`` (GPT-2's), ``bos`` (one that starts every text), ``left`` (pads on
            the left), ``metaspace`` (SentencePiece's, in the pre-tokenizer), or ``prepended``
            (the same by normalizers, as Llama 2 does).
    """
    byte_level = kind in ("byte_level", "bos", "left")
    characters = sorted(set("".join(TEXTS) + string.punctuation))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else characters
    if byte_level:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        core.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        core = Tokenizer(models.BPE(unk_token=UNKNOWN))
        core.decoder = decoders.Metaspace(prepend_scheme="first")
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    if kind == "prepended":
        core.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.train_from_iterator(
        [re.sub(r"([.,;])", r" \1", text) for text in TEXTS * 2],  # no token is a word and a dot
        trainers.BpeTrainer(
            vocab_size=330,
            min_frequency=2,
            show_progress=False,
            special_tokens=[END, BEGIN, UNKNOWN],
            initial_alphabet=alphabet,
        ),
    )
    if kind not in ("byte_level", "left"):
        core.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, core.token_to_id(BEGIN))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        bos_token=BEGIN,
        pad_token=END if kind != "bos" else None,
        padding_side="left" if kind == "left" else "right",
        clean_up_tokenization_spaces=False,
    )


class SlowTokenizer(PreTrainedTokenizer):
    """Single characters, each with the space before it: a tokenizer that knows no offsets."""

    def __init__(self, **kwargs: Any) -> None:
        characters = sorted(set("".join(TEXTS) + string.punctuation) - {" "})
        self._names = [END, *characters, *(" " + character for character in characters)]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        super().__init__(eos_token=END, unk_token=END, pad_token=END, **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._names)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._numbers)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return re.findall(r" ?\S", text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._numbers.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


TOKENIZER_KINDS = ("byte_level", "bos", "left", "metaspace", "prepended", "slow")


def tokenizer_of(kind: str) -> Any:
    """A tokenizer of any of `TOKENIZER_KINDS`."""
    return SlowTokenizer() if kind == "slow" else fast_tokenizer(kind)


def build_model(
    family: str, vocabulary: int, seed: int = 0, depth: int = DEPTH, intermediate: int = 96
) -> Any:
    """A random causal language model of ``family``, in evaluation mode."""
    ids = {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.15}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "llama":
            return LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=vocabulary,
                    hidden_size=32,
                    intermediate_size=intermediate,
                    num_hidden_layers=depth,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    max_position_embeddings=CONTEXT,
                    **ids,
                )
            ).eval()
        sizes = {
            "vocab_size": vocabulary,
            "n_positions": CONTEXT,
            "n_embd": 32,
            "n_layer": depth,
            "n_head": 4,
        }
        if family == "gptj":
            return GPTJForCausalLM(GPTJConfig(**sizes, rotary_dim=4, **ids)).eval()
        return GPT2LMHeadModel(GPT2Config(**sizes, **ids)).eval()


def target_ids(tokenizer: Any, prompt: str, target: str) -> list[int]:
    """The tokens of an answer as it follows a prompt."""
    return continuations(tokenizer, [(prompt, target)])[0][1]


def relative(actual: Tensor, expected: Tensor) -> float:
    """``‖actual − expected‖ / ‖expected‖``, in float64."""
    difference = actual.detach().double() - expected.detach().double()
    return (difference.norm() / expected.detach().double().norm()).item()


def random_sequences(vocabulary: int, count: int = 60, length: int = 20) -> list[list[int]]:
    """Token ids drawn at random: a corpus with more keys than ``d_in``."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(3, vocabulary, (count, length), generator=generator).tolist()


def weights_of(lm: EditableModel) -> dict[str, Tensor]:
    """A copy of every parameter."""
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}


def assert_same_weights(lm: EditableModel, before: dict[str, Tensor]) -> None:
    """Every parameter is, bit for bit, what it was."""
    for name, parameter in lm.model.named_parameters():
        ours, theirs = parameter.detach().contiguous(), before[name].contiguous()
        same = torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))
        assert same, f"{name} differs"


def hook_count(model: nn.Module) -> int:
    """How many forward hooks and patched ``forward`` methods the model carries."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__)
        for m in model.modules()
    )


def edit(
    session: EditSession, recipe: Recipe, requests: Sequence[Request], **options: Any
) -> Entry:
    """Encode a batch and apply it."""
    return apply_batch(session, recipe, encode(session.lm, recipe, requests), **options)


def targets_of(
    lm: EditableModel,
    requests: Sequence[Request],
    contexts: ContextTemplates,
    site: Site,
    fact_token: FactToken,
    settings: TargetSettings,
) -> Targets:
    """Encode a batch and search for its target values."""
    recipe = Recipe(Memit(), (0,), contexts, fact_token=fact_token)
    return optimise_targets(lm, encode(lm, recipe, requests), site, settings)
