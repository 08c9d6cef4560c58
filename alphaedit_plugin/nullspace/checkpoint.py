"""What has been read of a corpus, on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from alphaedit_plugin.common.distributed import Group
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.tensor_file import DamagedFile, read_tensors, write_tensors
from alphaedit_plugin.nullspace.second_moment import MomentSum

logger = logging.getLogger(__name__)

Sums = Mapping[int, tuple[MomentSum, ...]]  # per layer one, or two halves


@dataclass(frozen=True)
class Position:
    """How much of a corpus was read: chunks, texts, tokens, and windows of the text after those."""

    chunks: int = 0
    texts: int = 0
    tokens: int = 0
    windows: int = 0


@dataclass
class Checkpoint:
    """The state of one run, saved at intervals.

    Attributes:
        folder: of this run alone: whoever names it makes sure that model, corpus, layers and
            settings are in the name.
        every: tokens between two checkpoints: at most so much is lost.
        last: tokens that had been read at the last one.

    Raises:
        ConfigError: ``every`` is not a positive number of tokens.
    """

    folder: Path
    every: int
    last: int = 0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"model.moments.checkpoint is {self.every}: give at least 1 token")

    def keep(self, sums: Sums, position: Position, group: Group, ahead: int) -> None:
        """Write the state, if reading ``ahead`` more tokens would put too much at risk.

        A state that cannot be written is logged: the run is worth more than it.
        """
        if position.tokens - self.last + ahead <= self.every:
            return
        self.last = position.tokens
        parts = _by_name(sums)
        tensors = {name: part.total for name, part in parts.items()}
        counts = {name: part.count for name, part in parts.items()}
        content = {"position": asdict(position), "counts": counts}
        try:
            write_tensors(self._path(position.chunks, group), tensors, content)
            written = True
        except ConfigError as error:
            logger.warning("going on without a checkpoint: %s", error)
            written = False
        if all(group.gather(written)):  # until then, others may need an older one
            for old in sorted(self._kept(group))[:-1]:
                self._path(old, group).unlink(missing_ok=True)

    def restore(self, sums: Sums, group: Group) -> Position:
        """Fill ``sums`` from the latest state that every process has; say where it ended."""
        readable = {chunks for chunks in self._kept(group) if self._is_whole(chunks, group)}
        common = set.intersection(*group.gather(readable))
        if not common:
            return Position()
        tensors, content = read_tensors(self._path(max(common), group))
        for name, part in _by_name(sums).items():
            part.count = content["counts"][name]
            part.total = tensors.pop(name).to(part.total.device)
        position = Position(**content["position"])
        self.last = position.tokens
        if group.leads:
            logger.warning("going on after %d tokens, where a run was stopped", position.tokens)
        return position

    def clear(self) -> None:
        """Remove the state, once the result is safe elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, chunks: int, group: Group) -> Path:
        return self.folder / f"{chunks:09d}.{group.rank}of{group.world}.safetensors"

    def _kept(self, group: Group) -> set[int]:
        paths = self.folder.glob(f"*.{group.rank}of{group.world}.safetensors")
        return {int(path.name.partition(".")[0]) for path in paths}

    def _is_whole(self, chunks: int, group: Group) -> bool:
        try:
            read_tensors(self._path(chunks, group))
        except (DamagedFile, FileNotFoundError):
            return False
        return True


def _by_name(sums: Sums) -> dict[str, MomentSum]:
    return {
        f"{layer}.{half}": part for layer, parts in sums.items() for half, part in enumerate(parts)
    }
