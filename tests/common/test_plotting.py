"""What all pictures have in common: a base is known by its colour and marker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from alphaedit_plugin.common.plotting import colour, marker
from alphaedit_plugin.experiments import comparison_plots as plots
from alphaedit_plugin.experiments.bootstrap import Gain
from alphaedit_plugin.experiments.cells import Cell
from alphaedit_plugin.experiments.pictures import curves, gain_bars
from alphaedit_plugin.experiments.studies import studies_of
from alphaedit_plugin.methods.base import METHODS
from tests.experiments.made import cell, run


def drawn(bases: Sequence[str], path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """A comparison of these bases, and the report's pictures of it."""
    found: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, _: found.append(figure))
    cells: list[Cell] = [cell(base, side, 0.7) for base in bases for side in (False, True)]
    plots.plot_comparison(cells, path)
    (study,) = studies_of([run(cells)])
    places = [n for n, entry in enumerate(study.entries) if entry.null_space]
    gains = {place: {"efficacy": Gain(0.1, 0.0, 0.2)} for place in places}
    return [*found, curves(study), gain_bars(study, gains)]


@pytest.mark.parametrize("bases", [["rome", "memit", "prune", "rect"], ["rect", "memit"], ["rect"]])
def test_a_base_keeps_its_colour_whichever_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bases: list[str]
) -> None:
    compared, *report = drawn(bases, tmp_path / "p.png", monkeypatch)
    expected = colour(list(METHODS).index("rect")).lower()
    lines = [
        line for figure in (compared, report[0]) for axes in figure.axes for line in axes.lines
    ]
    ours = [line for line in lines if str(line.get_label()).startswith("RECT")]
    assert len(ours) >= 2 * 2
    assert {to_hex(line.get_color()) for line in ours} == {expected}
    assert {line.get_marker() for line in ours} == {marker(list(METHODS).index("rect"))}
    scores = [bar for bar in compared.axes[0].containers if isinstance(bar, BarContainer)]
    place = 2 * bases.index("rect") + 1  # plain, then projected
    gains = [bar for bar in report[1].axes[0].containers if isinstance(bar, BarContainer)]
    (gain,) = [bar for bar in gains if str(bar.get_label()).startswith("RECT")]
    for bar in (scores[place], gain):
        assert to_hex(bar.patches[0].get_facecolor()) == expected
