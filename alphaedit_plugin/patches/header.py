"""Which model a journal or a patch is for, and which weights it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import PatchError
from alphaedit_plugin.common.files import Claim, checksums
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.models.editable import EditableModel, dtype_name
from alphaedit_plugin.models.fingerprint import Fingerprint
from alphaedit_plugin.nullspace.projector_file import describe
from alphaedit_plugin.patches import reading

FORMAT = 1
FINGERPRINT, SAMPLE = "fingerprint", "sample"
MOST = 2**20  # entries of a sample; a few thousand are usual


@dataclass(frozen=True)
class Place:
    """A weight as the file's writer saw it.

    Attributes:
        module: whose weight it is.
        shape: ``(d_out, d_in)``.
    """

    module: str
    shape: tuple[int, int]


@dataclass(frozen=True)
class Header:
    """What a journal or patch belongs to.

    Attributes:
        model: its name and type, for people; never compared, never a path.
        dtype: of the edited weights.
        places: the weight of each layer.
        before: per layer a checksum of the pristine weight.
        fingerprint: of all that produces the keys of the highest layer.
        sample: of the pristine edited weights, which `fingerprint` leaves out.
        version: of this package.
    """

    model: str
    dtype: str
    places: Mapping[int, Place]
    before: Mapping[int, str]
    fingerprint: Fingerprint
    sample: Fingerprint
    version: str = VERSION

    @classmethod
    def of(cls, lm: EditableModel, pristine: Mapping[int, Tensor]) -> Header:
        """Describe a model by its pristine weights ``(d_out, d_in)``."""
        places = {
            layer: Place(lm.layout.down_proj.format(layer), (weight.shape[0], weight.shape[1]))
            for layer, weight in pristine.items()
        }
        return cls(
            _printable(describe(lm)),
            dtype_name(next(iter(pristine.values())).dtype),
            places,
            checksums(pristine),
            Fingerprint.of(lm, max(pristine)),
            Fingerprint.of_weights(list(pristine.values())),
        )

    def content(self) -> dict[str, Any]:
        """All but the tensors, as JSON."""
        return {
            "format": FORMAT,
            "model": self.model,
            "dtype": self.dtype,
            "layers": {
                layer: {
                    "module": place.module,
                    "shape": list(place.shape),
                    "before": self.before[layer],
                }
                for layer, place in self.places.items()
            },
            "version": self.version,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The fingerprints."""
        return {FINGERPRINT: self.fingerprint.values, SAMPLE: self.sample.values}

    @classmethod
    def parse(cls, content: Any, tensors: Mapping[str, Tensor]) -> Header:
        """What `content` and `tensors` gave; while no tensor is read, the fingerprints are empty.

        Raises:
            ValueError: something is of another type.
            KeyError: something is missing.
        """
        content = reading.mapping(content)
        if reading.whole(content["format"]) > FORMAT:
            raise ValueError(f"it is of format {content['format']}: update alphaedit-plugin")
        layers = reading.by_layer(content["layers"])
        return cls(
            reading.label(content["model"]),
            reading.label(content["dtype"]),
            {layer: _place(facts) for layer, facts in layers.items()},
            {layer: reading.label(facts["before"]) for layer, facts in layers.items()},
            Fingerprint(tensors.get(FINGERPRINT, torch.zeros(0))),
            Fingerprint(tensors.get(SAMPLE, torch.zeros(0))),
            reading.label(content["version"]),
        )

    def check_places(self, lm: EditableModel) -> None:
        """Refuse layers, modules and shapes that this model has not.

        Raises:
            PatchError: naming both; nothing forces it.
        """
        if not self.places:
            raise PatchError("it names no layer")
        for layer, place in self.places.items():
            if layer >= lm.depth:
                raise PatchError(
                    f"it is for {place.module} of {self.model}, but this is {describe(lm)} with "
                    f"{lm.depth} blocks"
                )
            module, shape = lm.layout.down_proj.format(layer), tuple(lm.weight(layer).shape)
            if place.module != module or place.shape != shape:
                raise PatchError(
                    f"it is for {place.module} {list(place.shape)} of {self.model}, but this is "
                    f"{describe(lm)} with {module} {list(shape)}"
                )

    def check_model(self, lm: EditableModel, weights: Mapping[int, Tensor]) -> None:
        """Refuse another model, and this one with other weights than these edits start from.

        In another dtype the weights can only be compared up to its rounding.

        Args:
            lm: the model.
            weights: of the edited layers, ``(d_out, d_in)``.

        Raises:
            PatchError: naming both.
        """
        ours = Fingerprint.of(lm, max(self.places))
        if not self.fingerprint.covers(ours) or not ours.covers(self.fingerprint):
            raise PatchError(
                f"it was made for {self.model} with fingerprint {self.fingerprint}, but this is "
                f"{describe(lm)} with {ours}"
            )
        if self.dtype != dtype_name(next(iter(weights.values())).dtype):
            same = self.sample.covers(Fingerprint.of_weights(list(weights.values())))
            changed = [] if same else sorted(weights)
        else:
            found = checksums(weights)
            changed = [layer for layer, value in self.before.items() if found[layer] != value]
        if changed:
            raise PatchError(
                f"it starts from other weights than {describe(lm)} has in "
                f"{lm.weight_name(changed[0])}: load the model as it was before any edit"
            )

    def check_same(self, lm: EditableModel, weights: Mapping[int, Tensor]) -> None:
        """As `check_places` and `check_model`; other layers or another dtype are refused, too."""
        self.check_places(lm)
        dtype = dtype_name(next(iter(weights.values())).dtype)
        if self.dtype != dtype:
            raise PatchError(f"it was kept in {self.dtype}, but this model is in {dtype}")
        if set(self.places) != set(weights):
            raise PatchError(
                f"it is for layers {sorted(self.places)}, but these are {sorted(weights)}"
            )
        self.check_model(lm, weights)


def check_claims(claims: Mapping[str, Claim]) -> None:
    """Refuse fingerprints that are no lists of float32 numbers, before they are read.

    Raises:
        ValueError: so they are, or they are missing.
    """
    for name in (FINGERPRINT, SAMPLE):
        claim = claims.get(name)
        fine = claim is not None and claim.dtype == "F32" and len(claim.shape) == 1
        if claim is None or not fine or claim.shape[0] > MOST:
            raise ValueError(f"it has no {name}")


def _place(facts: Any) -> Place:
    rows, columns = (reading.whole(size) for size in reading.sequence(facts["shape"]))
    return Place(reading.label(facts["module"]), (rows, columns))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[: reading.LONGEST]
