"""Identifying a model: what is computed from its keys is valid for that model only.

A `Fingerprint` survives a change of dtype and edits of down-projections: it tells whether a
projector belongs to a model. Digests are exact: they name cached results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.tensor_file import checksum
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.offload import value_of

SAMPLES = 32  # entries per parameter
RTOL = 2.0**-7  # twice what rounding to bfloat16 can change on either side
ATOL = 1e-6  # smaller entries are lost in float16

PROBE = "The 2 red houses, and Zoë's cat."


@dataclass(frozen=True)
class Fingerprint:
    """A sample of the weights that produce the keys of a layer and of all layers below it.

    Attributes:
        values: ``(m,)`` float32: entries of the embeddings, then of each block without its
            down-projection, so that a lower layer's sample is a prefix.
    """

    values: Tensor

    @classmethod
    def of(cls, lm: EditableModel, layer: int) -> Fingerprint:
        """Sample what produces the keys of ``layer``; reads a few thousand entries."""
        edited = {lm.weight_name(below) for below in range(layer + 1)}
        samples = [
            _sample(value_of(lm.model, path))
            for *_, path in _upstream(lm, layer)
            if path not in edited
        ]
        return cls(torch.cat(samples))

    @classmethod
    def of_weights(cls, weights: Sequence[Tensor]) -> Fingerprint:
        """Sample ``weights``."""
        return cls(torch.cat([_sample(weight) for weight in weights]))

    def covers(self, other: Fingerprint) -> bool:
        """Whether ``other``, of the same or a lower layer, belongs to the same model."""
        count = len(other.values)
        if count > len(self.values):
            return False
        return torch.allclose(self.values[:count], other.values, rtol=RTOL, atol=ATOL)

    def __str__(self) -> str:
        """Sixteen hexadecimal digits, for messages; to compare, use `covers`."""
        return hashlib.sha256(self.values.bfloat16().float().numpy().tobytes()).hexdigest()[:16]


def upstream_digests(lm: EditableModel, layers: Sequence[int]) -> dict[int, str]:
    """Per layer, a hash of every weight that produces its keys."""
    digest = hashlib.sha256(str(lm.model.config.model_type).encode())
    digests = {}
    for block, name, path in _upstream(lm, max(layers)):
        digest.update(f"{block}:{name}:{checksum(value_of(lm.model, path))}".encode())
        digests[block] = digest.hexdigest()
    return {layer: digests[layer] for layer in layers}


def weights_digest(lm: EditableModel, without: Collection[int] = ()) -> str:
    """A hash of every weight, except the down-projections of the layers ``without``."""
    skipped = {id(lm.parameter(layer)) for layer in without}
    digest = hashlib.sha256(str(lm.model.config.model_type).encode())
    for name, parameter in lm.model.named_parameters():
        if id(parameter) not in skipped:
            digest.update(f"{name}:{checksum(parameter)}".encode())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """A hash of a tokenizer's vocabulary and of how it tokenizes a sentence."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    probe = tokenise(tokenizer, PROBE)
    return hashlib.sha256(json.dumps([vocabulary, probe]).encode()).hexdigest()


def _upstream(lm: EditableModel, layer: int) -> Iterator[tuple[int, str, str]]:
    """(Block, name in it, name in the model): embeddings as block −1, then up to ``layer``."""
    model = lm.model
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    blocks = [lm.block(number) for number in range(lm.depth)]
    after = [model.get_output_embeddings()]
    if lm.layout.final_norm is not None:
        after.append(model.get_submodule(lm.layout.final_norm))
    downstream = {id(p) for module in blocks + after for p in module.parameters()} - embeddings
    for name, parameter in model.named_parameters():
        if id(parameter) not in downstream:
            yield -1, name, name
    for number, block in enumerate(blocks[: layer + 1]):
        for name, _ in block.named_parameters():
            yield number, name, f"{lm.layout.block.format(number)}.{name}"


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    last = flat.numel() - 1
    # Clamped because float32 rounds the last index of a large parameter up.
    indices = torch.linspace(0, last, min(SAMPLES, flat.numel())).long().clamp_max(last)
    return flat[indices.to(flat.device)].float().cpu()
