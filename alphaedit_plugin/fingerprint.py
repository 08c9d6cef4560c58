"""Which model is it? Whatever was computed from a model's keys is of use to that model only.

Two answers. A `Fingerprint` survives a change of dtype and edits of down-projections: it says
whether a projector belongs to a model. `upstream_digest` is exact: it names cached results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.artefact import checksum
from alphaedit_plugin.models import EditableModel

SAMPLED = 32  # entries per parameter
ROUNDING = 2.0**-7  # relative; twice what rounding to bfloat16 can change on either side
SMALLEST = 1e-6  # entries below are lost in float16


@dataclass(frozen=True)
class Fingerprint:
    """A sample of the weights that produce the keys of a layer, and of all layers below.

    Attributes:
        values: ``(m,)`` float32: entries of the embeddings, then block by block of all but the
            down-projections, so that the sample for a lower layer is a prefix.
    """

    values: Tensor

    @classmethod
    def of(cls, view: EditableModel, layer: int) -> Fingerprint:
        """Sample what produces the keys of ``layer``; a few thousand entries are read."""
        edited = {id(view.parameter(below)) for below in range(layer + 1)}
        found = [
            _sample(parameter)
            for _, parameter in _upstream(view, layer)
            if id(parameter) not in edited
        ]
        return cls(torch.cat(found))

    def covers(self, other: Fingerprint) -> bool:
        """Whether ``other``, for the same or a lower layer, is of the same model."""
        count = len(other.values)
        if count > len(self.values):
            return False
        return torch.allclose(self.values[:count], other.values, rtol=ROUNDING, atol=SMALLEST)

    def __str__(self) -> str:
        """Sixteen hexadecimal digits, for people; `covers` is what decides."""
        return hashlib.sha256(self.values.bfloat16().float().numpy().tobytes()).hexdigest()[:16]


def upstream_digest(view: EditableModel, layer: int) -> str:
    """A hash of every weight that produces the keys of ``layer``, exactly as it is now."""
    digest = hashlib.sha256(str(view.model.config.model_type).encode())
    for name, parameter in _upstream(view, layer):
        digest.update(f"{name}:{checksum(parameter)}".encode())
    return digest.hexdigest()


def _upstream(view: EditableModel, layer: int) -> Iterator[tuple[str, Tensor]]:
    yield from view.model.get_input_embeddings().named_parameters(prefix="embeddings")
    for below in range(layer + 1):
        yield from view.block(below).named_parameters(prefix=str(below))


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    places = torch.linspace(0, flat.numel() - 1, min(SAMPLED, flat.numel())).long()
    return flat[places.to(flat.device)].float().cpu()
