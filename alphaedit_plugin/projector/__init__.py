"""The null-space projector: fit, cut, apply, save, load, diagnose."""

from __future__ import annotations

from alphaedit_plugin.projector.convergence import Convergence, disagreement
from alphaedit_plugin.projector.cut import Cut, CutRule
from alphaedit_plugin.projector.file import (
    ProjectorFile,
    load_projectors,
    read_projectors,
    refuse_other_cut,
    save_projectors,
)
from alphaedit_plugin.projector.projector import Projector, fit_projectors, warn_of_degenerate
from alphaedit_plugin.projector.reference import load_reference
from alphaedit_plugin.projector.spectrum import Spectrum, decompose

__all__ = [
    "Convergence",
    "Cut",
    "CutRule",
    "Projector",
    "ProjectorFile",
    "Spectrum",
    "decompose",
    "disagreement",
    "fit_projectors",
    "load_projectors",
    "load_reference",
    "read_projectors",
    "refuse_other_cut",
    "save_projectors",
    "warn_of_degenerate",
]
