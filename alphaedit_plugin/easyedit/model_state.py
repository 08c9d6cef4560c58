"""What the plug-in knows of one model: its projectors, and the edits that are in its weights."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.easyedit.host import HostCall, second_moment_of
from alphaedit_plugin.easyedit.hparams import NullSpaceFlag
from alphaedit_plugin.easyedit.key_history import KeyHistory, mark
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import load_projectors, refuse_other_cut
from alphaedit_plugin.nullspace.second_moment import SecondMoment

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A run of PRUNE or RECT.

    Attributes:
        session: of the run; the first entry of its journal is the keys of what came before.
        states: marks of the weights before the first batch and after each.
    """

    session: EditSession
    states: list[list[Tensor]] = field(default_factory=list)

    def note_state(self) -> None:
        """Note the weights as they are now, after another batch."""
        self.states.append(self._marks())

    def resume(self) -> bool:
        """Go back to the batch after which the weights were what they are now.

        Returns:
            ``False`` where they never were: something else has written to them.
        """
        now = self._marks()
        for number, state in reversed(list(enumerate(self.states))):
            if all(torch.equal(a, b) for a, b in zip(state, now, strict=True)):
                del self.states[number + 1 :]
                # The host has restored the weights already, without telling the session.
                self.session.undo(len(self.session.journal) - 1 - number, force=True)
                return True
        return False

    def _marks(self) -> list[Tensor]:
        return [mark(self.session.lm.weight(layer)) for layer in self.session.layers]


@dataclass
class ModelState:
    """What the edits of one model have in common.

    Attributes:
        projectors: by weight name and source: a file, or a cut of some of the host's statistics.
        moments: by weight name and source.
        histories: the keys of earlier edits, by weight name.
        runs: the latest of each of our methods.
    """

    projectors: dict[tuple[str, str], Projector] = field(default_factory=dict)
    moments: dict[tuple[str, str], SecondMoment] = field(default_factory=dict)
    histories: dict[str, KeyHistory] = field(default_factory=lambda: defaultdict(KeyHistory))
    runs: dict[str, Run] = field(default_factory=dict)

    def __reduce__(self) -> Any:
        """A copy of a model, or a pickled one, starts without a state."""
        return ModelState, ()

    def moments_of(self, call: HostCall, names: Sequence[str]) -> dict[str, SecondMoment]:
        """The host's second moment of each weight, read once."""
        source = _statistics(call.hparams)
        for name in names:
            if (name, source) not in self.moments:
                self.moments[name, source] = _moment(call, name)
        return {name: self.moments[name, source] for name in names}

    def projectors_of(
        self, flag: NullSpaceFlag, call: HostCall, names: Sequence[str]
    ) -> dict[str, Projector]:
        """One projector per weight: from a file, or fitted to the host's statistics once.

        Raises:
            ProjectorError: see `load_projectors`.
            ConfigError: the file is for other weights, or the cut does not exist.
        """
        source = flag.projector_path or f"{flag.cut}, {_statistics(call.hparams)}"
        missing = [name for name in names if (name, source) not in self.projectors]
        if missing and flag.projector_path:
            # Checked against the weights as they are before the first edit; later ones differ.
            loaded = _from_file(Path(flag.projector_path).expanduser(), flag, call, missing)
            self.projectors |= {(name, source): projector for name, projector in loaded.items()}
        elif missing:
            for name in missing:
                self.projectors[name, source] = _fitted(name, _moment(call, name), flag)
        return {name: self.projectors[name, source] for name in names}

    def run_of(
        self, method: str, lm: EditableModel, layers: tuple[int, ...], arriving: Sequence[Any]
    ) -> Run:
        """The run of a method that the weights are in, or a new one that starts from them.

        A new run keeps the keys of earlier edits that the weights still hold, except of those that
        the ``arriving`` requests contradict.
        """
        run = self.runs.get(method)
        if run is None or run.session.layers != layers or not run.resume():
            self.runs[method] = run = Run(EditSession(lm, layers))
            past: dict[int, Tensor] = {}
            for layer in layers:
                weight, history = lm.weight(layer), self.histories[lm.weight_name(layer)]
                history.rewind(weight)
                keys = history.past(arriving).joined(weight.float().T)
                past |= {layer: keys} if keys.shape[1] else {}
            run.session.journal.append(Entry((), (), past))
            run.note_state()
        return run


def _statistics(hparams: Any) -> str:
    """Which of the host's statistics ``hparams`` names."""
    names = ("stats_dir", "mom2_dataset", "mom2_n_samples", "mom2_dtype")
    return ", ".join(str(getattr(hparams, name)) for name in names)


def _moment(call: HostCall, name: str) -> SecondMoment:
    module = name.removesuffix(".weight")
    mean = second_moment_of(call.model, call.tokenizer, module, call.hparams)
    return SecondMoment(mean.double(), 1)


def _from_file(
    path: Path, flag: NullSpaceFlag, call: HostCall, names: Sequence[str]
) -> dict[str, Projector]:
    lm, layers = EditableModel.wrap(call.model, call.tokenizer), call.hparams.layers
    foreign = set(names) - {lm.weight_name(layer) for layer in layers}
    if foreign:
        raise ConfigError(f"projector_path has no projector for {min(foreign)}: remove it")
    loaded = load_projectors(lm, layers, path)
    refuse_other_cut(loaded, flag.cut if flag.cut != NullSpaceFlag().cut else None, path)
    return {lm.weight_name(layer): projector for layer, projector in loaded.items()}


def _fitted(name: str, moment: SecondMoment, flag: NullSpaceFlag) -> Projector:
    """A projector; a cut that leaves hardly any or nearly all dimensions is warned about."""
    projector = Projector.fit(moment, flag.cut)
    if projector.diagnosis():
        log.warning(
            "%s: null_space_cut %g (%s) makes its null space %d of %d dimensions; its eigenvalues "
            "span %.1e to %.1e; try null_space_rule: energy with null_space_cut: 0.99",
            name, flag.cut.value, flag.cut.rule.value, projector.null_dimension,
            projector.d_in, projector.eigenvalues[-1], projector.eigenvalues[0],
        )  # fmt: skip
    return projector
