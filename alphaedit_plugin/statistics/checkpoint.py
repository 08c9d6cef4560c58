"""What has been read of a corpus, on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from alphaedit_plugin.artefact import DamagedFile, read_artefact, write_artefact
from alphaedit_plugin.distributed import Group
from alphaedit_plugin.statistics.moment import MomentSum

KEPT = 2  # generations: processes that were killed together may be one apart


@dataclass(frozen=True)
class Position:
    """How much of a corpus was read: whole chunks, whole texts, tokens."""

    chunks: int = 0
    texts: int = 0
    tokens: int = 0


@dataclass
class Checkpoint:
    """The state of one run, kept every so many tokens.

    Attributes:
        folder: of this run alone: whoever names it makes sure that model, corpus, layers and
            settings are in the name.
        every: tokens between two checkpoints: at most so much is lost.
        last: tokens that had been read at the last one.
    """

    folder: Path
    every: int
    last: int = 0

    def keep(
        self, sums: Mapping[int, tuple[MomentSum, ...]], position: Position, group: Group
    ) -> None:
        """Write the state, if enough has been read since the last time."""
        if position.tokens - self.last < self.every:
            return
        tensors: dict[str, Tensor] = {}
        counts = {}
        for layer, parts in sums.items():
            for half, part in enumerate(parts):
                counts[f"{layer}.{half}"] = part.count
                if part.total is not None:
                    tensors[f"{layer}.{half}"] = part.total
        content = {"position": asdict(position), "counts": counts}
        write_artefact(self._path(position.chunks, group), tensors, content)
        self.last = position.tokens
        for old in sorted(self._kept(group))[:-KEPT]:
            self._path(old, group).unlink(missing_ok=True)

    def restore(self, sums: Mapping[int, tuple[MomentSum, ...]], group: Group) -> Position:
        """Fill ``sums`` from the latest state that every process has; say where it ended."""
        readable = {chunks for chunks in self._kept(group) if self._is_whole(chunks, group)}
        common = set.intersection(*group.gather(readable))
        if not common:
            return Position()
        tensors, content = read_artefact(self._path(max(common), group))
        for layer, parts in sums.items():
            for half, part in enumerate(parts):
                name = f"{layer}.{half}"
                part.count = content["counts"][name]
                if name in tensors:
                    part.total = tensors[name]
        position = Position(**content["position"])
        self.last = position.tokens
        return position

    def clear(self) -> None:
        """Remove the state, once the result is safe elsewhere."""
        for path in self.folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, chunks: int, group: Group) -> Path:
        return self.folder / f"{chunks:09d}.{group.rank}of{group.world}.safetensors"

    def _kept(self, group: Group) -> set[int]:
        name = re.compile(rf"(\d+)\.{group.rank}of{group.world}\.safetensors")
        found = (name.fullmatch(path.name) for path in self.folder.glob("*.safetensors"))
        return {int(match[1]) for match in found if match}

    def _is_whole(self, chunks: int, group: Group) -> bool:
        try:
            read_artefact(self._path(chunks, group))
        except (DamagedFile, FileNotFoundError):
            return False
        return True
