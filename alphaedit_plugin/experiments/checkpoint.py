"""Where a cell stands, on disk: a run that was killed goes on after its last finished batch.

What a session needs to go on exactly is small: the sum of its deltas, from which its weights are
rendered, and the keys of earlier batches, block by block, as the factor of the least squares grows
by blocks. One file holds both, with what was measured so far; every batch replaces it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from torch import Tensor

from alphaedit_plugin.common.cache import hash_of
from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.tensor_file import DamagedFile, checksum, read_tensors, write_tensors
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.experiments.plain import converter
from alphaedit_plugin.nullspace.projector import Projector

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Settings that say where things are and how many run at once, and not what comes out.
ELSEWHERE = (
    "compare.out", "compare.jobs", "compare.bases", "compare.resume", "compare.share_targets",
    "model.path", "data.path", "save", "fit", "request",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A cell's file.

    Attributes:
        path: of the file.
        identity: of the cell, see `identity`; what was written for another one is not used.
    """

    path: Path
    identity: str

    def save(self, session: EditSession, standing: object) -> None:
        """Write where ``session`` stands, and what was found out so far.

        Args:
            session: after a batch; its journal has one entry per batch.
            standing: a dataclass of plain values, and of other such dataclasses.

        Raises:
            ConfigError: the file cannot be written.
        """
        tensors = {f"total.{layer}": session.accumulated(layer) for layer in session.layers}
        batches = []
        for number, entry in enumerate(session.journal):
            batches.append(len(entry.requests))
            for layer, keys in entry.past_keys.items():
                tensors[f"past.{number}.{layer}"] = keys
        self._write(tensors, {"batches": batches, "standing": converter().unstructure(standing)})

    def close(self, standing: object) -> None:
        """Write what a cell that is done found out; its tensors are of no more use.

        Raises:
            ConfigError: the file cannot be written.
        """
        self._write({}, {"batches": [], "standing": converter().unstructure(standing)})

    def restore(self, session: EditSession, requests: Sequence[Request], kind: type[T]) -> T | None:
        """Bring a new session to where `save` was called, bit for bit.

        Args:
            session: without any entry.
            requests: all that the cell edits, in order.
            kind: what ``standing`` was.

        Returns:
            What was found out until then; ``None`` where there is nothing to go on from.
        """
        try:
            tensors, content = read_tensors(self.path)
            if content["identity"] != self.identity:
                return None
            standing = converter().structure(content["standing"], kind)
        except FileNotFoundError:
            return None
        except (DamagedFile, LookupError, TypeError, ValueError, AttributeError) as error:
            logger.warning("beginning anew, as %s cannot be used: %s", self.path, error)
            return None
        _replay(session, requests, content["batches"], tensors)
        return standing

    def _write(self, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
        write_tensors(self.path, tensors, {"identity": self.identity, **content})


def _replay(
    session: EditSession,
    requests: Sequence[Request],
    batches: Sequence[int],
    tensors: Mapping[str, Tensor],
) -> None:
    """One entry per batch, with its keys; the first of them writes what all of them wrote."""
    done = 0
    for number, size in enumerate(batches):
        with session.batch():
            for layer in session.layers if number == 0 else ():
                session.write(layer, Delta(_placed(session, layer, tensors[f"total.{layer}"])))
            names = {layer: f"past.{number}.{layer}" for layer in session.layers}
            past = {
                layer: _placed(session, layer, tensors[name])
                for layer, name in names.items()
                if name in tensors
            }
            session.commit(requests[done : done + size], past)
        done += size


def _placed(session: EditSession, layer: int, tensor: Tensor) -> Tensor:
    """Beside the layer's weight."""
    return tensor.to(session.lm.weight(layer).device)


def identity(
    model: str,
    config: EditorConfig,
    recipe: Recipe,
    projectors: Mapping[int, Projector],
    data: object,
) -> str:
    """A hash of all that a cell's figures depend on, but for the machine.

    Args:
        model: a hash of it, unedited, and of its tokenizer.
        config: the cell's.
        recipe: likewise.
        projectors: likewise.
        data: all that is edited and asked, as its ``repr`` says it.
    """
    moments = {layer: moment.total for layer, moment in recipe.moments.items()}
    bases = {layer: projector.basis for layer, projector in projectors.items()}
    return hash_of(
        {
            "version": VERSION,
            "settings": _settings(config),
            "model": model,
            "data": hashlib.sha256(repr(data).encode()).hexdigest(),
            "contexts": list(recipe.contexts.flat),
            "moments": {layer: checksum(tensor) for layer, tensor in moments.items()},
            "projectors": {layer: checksum(tensor) for layer, tensor in bases.items()},
        }
    )


def _settings(config: EditorConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(found, dict)
    for name in ELSEWHERE:
        *above, last = name.split(".")
        (found[above[0]] if above else found).pop(last)
    return {str(key): value for key, value in found.items()}
