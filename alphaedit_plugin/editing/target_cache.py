"""Target values shared by runs: the same model state, requests and search give the same values.

All least-squares bases search the same values for a run's first batch, plain or projected; PRUNE,
which differs from MEMIT only at the end of a run, shares every batch with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from alphaedit_plugin.common.cache import Cache
from alphaedit_plugin.common.tensor_file import checksum, read_tensors, write_tensors
from alphaedit_plugin.editing.encoding import EncodedRequest
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.editing.targets import Targets, optimise_targets
from alphaedit_plugin.models.activations import Site
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import tokenizer_digest, weights_digest


@dataclass(frozen=True)
class StoredTargets:
    """A `TargetSearch` that keeps its results in the cache.

    Attributes:
        cache: of which processes that need the same values wait for one another.
        layers: those that are edited.
        model: a hash of the tokenizer and of all weights but the edited ones.
        pristine: checksums of the edited weights, unedited.
        pristine_only: store nothing once they were edited: no other run will get there.
    """

    cache: Cache
    layers: tuple[int, ...]
    model: str
    pristine: tuple[str, ...]
    pristine_only: bool = False

    @classmethod
    def of(
        cls,
        cache: Cache,
        lm: EditableModel,
        layers: Sequence[int],
        pristine_only: bool = False,
    ) -> StoredTargets:
        """For an unedited model."""
        model = weights_digest(lm, layers) + tokenizer_digest(lm.tokenizer)
        return cls(cache, tuple(layers), model, _edited(lm, layers), pristine_only)

    def __call__(
        self,
        lm: EditableModel,
        batch: Sequence[EncodedRequest],
        site: Site,
        settings: TargetSettings,
    ) -> Targets:
        """See `targets.optimise_targets`."""
        search = partial(optimise_targets, lm, batch, site, settings)
        edited = _edited(lm, self.layers)
        if self.pristine_only and edited != self.pristine:
            return search()
        key: dict[str, object] = {
            "model": self.model,
            "edited": dict(zip(self.layers, edited, strict=True)),
            "sentences": [
                [[(s.ids, s.position) for s in (*one.sentences, one.essence)], one.answers]
                for one in batch
            ],
            "site": [site.layer, site.part.value],
            "settings": asdict(settings),
            # Other kernels round sums differently.
            "machine": [torch.__version__, lm.device.type, torch.get_num_threads()],
        }
        return self.cache.computed(
            "targets", key, search, partial(_read, lm), _write, logging.DEBUG
        )


def _edited(lm: EditableModel, layers: Sequence[int]) -> tuple[str, ...]:
    return tuple(checksum(lm.weight(layer)) for layer in layers)


def _read(lm: EditableModel, path: Path) -> Targets:
    tensors, _ = read_tensors(path)
    return Targets(**{name: tensor.clone().to(lm.device) for name, tensor in tensors.items()})


def _write(path: Path, targets: Targets) -> None:
    write_tensors(path, vars(targets), {})
