"""From the flag to a projected call: the projectors and the key history that a model has."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.easyedit.host import HostMethod, second_moment_of
from alphaedit_plugin.easyedit.hparams import NullSpaceFlag
from alphaedit_plugin.easyedit.key_history import KeyHistory
from alphaedit_plugin.easyedit.patch_loop import ClosedForm, apply_projected, edited_weights
from alphaedit_plugin.easyedit.prune_rect import NativeRun
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import load_projectors, refuse_other_cut
from alphaedit_plugin.nullspace.second_moment import SecondMoment

log = logging.getLogger(__name__)


@dataclass
class ModelState:
    """What one model's edits have in common.

    Attributes:
        projectors: by weight name and source: a file, or a cut of some of the host's statistics.
        runs: of PRUNE and RECT.
        histories: keys of earlier edits, by weight name.
    """

    projectors: dict[tuple[str, str], Projector] = field(default_factory=dict)
    runs: list[NativeRun] = field(default_factory=list)
    histories: dict[str, KeyHistory] = field(default_factory=lambda: defaultdict(KeyHistory))

    def projectors_of(
        self, flag: NullSpaceFlag, host: tuple[Any, Any, Any], names: list[str]
    ) -> dict[str, Projector]:
        """One projector per weight: from a file, or fitted to the host's statistics and kept.

        Args:
            flag: where they come from, and their cut.
            host: model, tokenizer and hparams.
            names: of the weights.

        Raises:
            ProjectorError: see `load_projectors`.
            ConfigError: the file is for other weights, or the cut is none.
        """
        model, tokenizer, hparams = host
        statistics = (hparams.stats_dir, hparams.mom2_dataset, hparams.mom2_n_samples)
        source = str(flag.projector_path or (flag.cut, *statistics, hparams.mom2_dtype))
        missing = [name for name in names if (name, source) not in self.projectors]
        if missing and flag.projector_path:
            lm = EditableModel.wrap(model, tokenizer)
            foreign = set(missing) - {lm.weight_name(layer) for layer in hparams.layers}
            if foreign:
                raise ConfigError(f"projector_path holds none for {min(foreign)}: leave it out")
            # Checked against the weights as they are before the first edit; later ones differ.
            path = Path(flag.projector_path).expanduser()
            found = load_projectors(lm, hparams.layers, path)
            refuse_other_cut(found, flag.cut if flag.cut != NullSpaceFlag().cut else None, path)
            for layer, projector in found.items():
                self.projectors[lm.weight_name(layer), source] = projector
        elif missing:
            for name in missing:
                module = name.removesuffix(".weight")
                mean = second_moment_of(model, tokenizer, module, hparams).double()
                self.projectors[name, source] = _fitted(name, SecondMoment(mean, 1), flag)
        return {name: self.projectors[name, source] for name in names}


def apply_with_flag(
    state: ModelState,
    flag: NullSpaceFlag,
    method: HostMethod,
    apply: Callable[..., Any],
    call: tuple[Any, Any, Any, Any],
    options: dict[str, Any],
) -> Any:
    """Run one of the host's methods projected.

    Args:
        state: of the model.
        flag: as set on the hparams.
        method: the host's method.
        apply: its apply function.
        call: model, tokenizer, requests and hparams.
        options: the other arguments of ``apply``.

    Returns:
        What ``apply`` returns.

    Raises:
        ConfigError: a setting or an option that does not go with the flag.
    """
    model, tokenizer, _, hparams = call
    solves = flag.solves(method.name, method.solves)
    # A target that is read from a file never passes through the functions we listen to.
    for option in ("copy", "cache_template") if solves else ("copy",):
        if options.get(option):
            raise ConfigError(f"null_space does not go with {option}=: leave that out")
    weights = list(edited_weights(method, model, hparams))
    projectors = state.projectors_of(flag, (model, tokenizer, hparams), weights)
    closed_form = None
    if solves:
        ridge = flag.null_space_l2
        closed_form = ClosedForm(method.load(), weights, projectors, ridge, state.histories)
    # EMMET empties its copy of the weights without this, and the host then restores nothing.
    options = {**options, "keep_original_weight": True}
    return apply_projected(method, apply, projectors, closed_form, call, options)


def _fitted(name: str, moment: SecondMoment, flag: NullSpaceFlag) -> Projector:
    """A projector; a cut that does not part the space is told in the words of hparams."""
    projector = Projector.fit(moment, flag.cut)
    if projector.diagnosis():
        log.warning(
            "%s: null_space_cut %g (%s) makes its null space %d of %d dimensions; its eigenvalues "
            "span %.1e to %.1e; try null_space_rule: energy with null_space_cut: 0.99",
            name, flag.cut.value, flag.null_space_rule, projector.null_dimension,
            projector.d_in, projector.eigenvalues[-1], projector.eigenvalues[0],
        )  # fmt: skip
    return projector
