"""The null-space projector: fit, cut, apply, save, load, diagnose."""

from __future__ import annotations

from alphaedit_plugin.nullspace.checkpoint import Checkpoint, Position
from alphaedit_plugin.nullspace.collect import Halves, Watch, collect_second_moments, memory_needed
from alphaedit_plugin.nullspace.convergence import Convergence, disagreement
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.easyedit_stats import (
    HostMoments,
    read_host_moment,
    write_host_moment,
)
from alphaedit_plugin.nullspace.projector import Projector, fit_projectors, warn_of_degenerate
from alphaedit_plugin.nullspace.projector_file import (
    ProjectorFile,
    load_projectors,
    read_projectors,
    refuse_other_cut,
    save_projectors,
)
from alphaedit_plugin.nullspace.reference import load_reference
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from alphaedit_plugin.nullspace.spectrum import Spectrum, decompose

__all__ = [
    "Checkpoint",
    "Convergence",
    "Cut",
    "CutRule",
    "Halves",
    "HostMoments",
    "Position",
    "Projector",
    "ProjectorFile",
    "SecondMoment",
    "Spectrum",
    "Watch",
    "collect_second_moments",
    "decompose",
    "disagreement",
    "fit_projectors",
    "load_projectors",
    "load_reference",
    "memory_needed",
    "read_host_moment",
    "read_projectors",
    "refuse_other_cut",
    "save_projectors",
    "warn_of_degenerate",
    "write_host_moment",
]
