"""Which model a journal or a patch is for, and which weights it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from alphaedit_plugin.common.errors import PatchError, quoted
from alphaedit_plugin.common.tensor_file import checksum, checksums
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.models.editable import EditableModel, dtype_name
from alphaedit_plugin.models.fingerprint import Fingerprint
from alphaedit_plugin.nullspace.projector_file import describe


@dataclass(frozen=True)
class Layer:
    """An edited layer.

    Attributes:
        module: whose weight is edited.
        shape: of the weight, ``(d_out, d_in)``.
        before: checksum of the pristine weight.
    """

    module: str
    shape: tuple[int, int]
    before: str


@dataclass(frozen=True)
class Header:
    """What a journal or patch belongs to.

    Attributes:
        model: its name and type, for people; never compared, never a path.
        dtype: of the edited weights.
        layers: those that may be edited.
        fingerprint: of all that produces the keys of the highest layer.
        sample: of the pristine edited weights, which `fingerprint` leaves out.
        version: of this package.
    """

    model: str
    dtype: str
    layers: Mapping[int, Layer]
    fingerprint: Fingerprint
    sample: Fingerprint
    version: str = VERSION

    @classmethod
    def of(cls, lm: EditableModel, pristine: Mapping[int, Tensor]) -> Header:
        """Describe a model by its pristine weights ``(d_out, d_in)``."""
        return cls(
            describe(lm),
            _dtype(pristine),
            {
                layer: Layer(
                    lm.layout.down_proj.format(layer),
                    (weight.shape[0], weight.shape[1]),
                    checksum(weight),
                )
                for layer, weight in pristine.items()
            },
            Fingerprint.of(lm, max(pristine)),
            Fingerprint.of_weights(list(pristine.values())),
        )

    @property
    def before(self) -> dict[int, str]:
        """Per layer a checksum of the pristine weight."""
        return {number: layer.before for number, layer in self.layers.items()}

    def check_layers(self, lm: EditableModel) -> None:
        """Refuse layers, modules and shapes that this model does not have.

        Raises:
            PatchError: naming both; ``force`` does not help.
        """
        if not self.layers:
            raise PatchError("it names no layer")
        for number, layer in self.layers.items():
            theirs = f"it is for {quoted(layer.module)} {list(layer.shape)} of {quoted(self.model)}"
            if number >= lm.depth:
                raise PatchError(f"{theirs}, but this is {describe(lm)} with {lm.depth} blocks")
            module, shape = lm.layout.down_proj.format(number), tuple(lm.weight(number).shape)
            if (layer.module, layer.shape) != (module, shape):
                raise PatchError(
                    f"{theirs}, but this is {describe(lm)} with {module} {list(shape)}"
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
        ours = Fingerprint.of(lm, max(self.layers))
        if not self.fingerprint.covers(ours) or not ours.covers(self.fingerprint):
            raise PatchError(
                f"it was made for {quoted(self.model)} with fingerprint {self.fingerprint}, but "
                f"this is {describe(lm)} with {ours}"
            )
        if self.dtype != _dtype(weights):
            same = self.sample.covers(Fingerprint.of_weights(list(weights.values())))
            changed = [] if same else sorted(weights)
        else:
            now = checksums(weights)
            changed = [layer for layer, before in self.before.items() if now[layer] != before]
        if changed:
            raise PatchError(
                f"it starts from other weights than {describe(lm)} has in "
                f"{lm.weight_name(changed[0])}: load the model as it was before any edit"
            )

    def check_same(self, lm: EditableModel, weights: Mapping[int, Tensor]) -> None:
        """As `check_layers` and `check_model`; other layers or another dtype are refused, too."""
        self.check_layers(lm)
        if self.dtype != _dtype(weights):
            raise PatchError(
                f"it was kept in {quoted(self.dtype)}, but this model is in {_dtype(weights)}"
            )
        if set(self.layers) != set(weights):
            raise PatchError(
                f"it is for layers {sorted(self.layers)}, but these are {sorted(weights)}"
            )
        self.check_model(lm, weights)


def _dtype(weights: Mapping[int, Tensor]) -> str:
    return dtype_name(next(iter(weights.values())).dtype)
