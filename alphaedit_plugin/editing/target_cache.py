"""Target values that several runs share: those of one model state, requests and search.

All least-squares bases search the same values for a run's first batch, plain or projected; and
PRUNE, which differs from MEMIT at the end of a run only, for every batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from alphaedit_plugin.common.cache import Cache
from alphaedit_plugin.common.files import checksum, read_artefact, write_artefact
from alphaedit_plugin.editing.encoding import EncodedRequest
from alphaedit_plugin.editing.target_settings import TargetSettings
from alphaedit_plugin.editing.targets import Targets, optimise_targets
from alphaedit_plugin.models.activations import Site
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import tokenizer_digest, weights_digest


@dataclass(frozen=True)
class StoredTargets:
    """A search, `targets.TargetSearch`, that finds in the cache what was found before.

    Attributes:
        cache: where values are kept; processes that need the same wait for one another.
        layers: that are edited.
        model: a hash of the tokenizer and of all weights but the edited ones.
        pristine: checksums of the edited weights as they were.
        pristine_only: keep nothing once they were edited, as nobody else will get there.
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
            # Sums come out otherwise, in the last bits, with other kernels.
            "machine": [torch.__version__, lm.device.type, torch.get_num_threads()],
        }
        path = self.cache.path("targets", key)
        with self.cache.alone("targets", key, logging.DEBUG):
            found = self.cache.stored(path, partial(_read, lm))
            if found is None:
                found = search()
                self.cache.keep(partial(_write, path, found))
        return found


def _edited(lm: EditableModel, layers: Sequence[int]) -> tuple[str, ...]:
    return tuple(checksum(lm.weight(layer)) for layer in layers)


def _read(lm: EditableModel, path: Path) -> Targets:
    tensors, _ = read_artefact(path)
    placed = {name: tensor.clone().to(lm.device) for name, tensor in tensors.items()}
    return Targets(placed["values"], placed["loss"], placed["probability"])


def _write(path: Path, targets: Targets) -> None:
    found = {name: getattr(targets, name) for name in ("values", "loss", "probability")}
    write_artefact(path, found, {})
